"""Spans of what a call's own span is made of: the wait for its batch, and the batch's run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from opentelemetry.trace import Link, Span, SpanContext, Tracer, set_span_in_context

from services.common.server.watching import WatchedCall
from services.common.tracing import since_epoch
from services.inference.batching import Question
from services.inference.distribution import Decisions


class BatchSpans:
    """Gives each traced call of a batch its spans `queue` and `infer`; see Observer.

    The calls of a batch share one run, and so all have an `infer` of the same time. Those after
    the first link to the first one's.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def ran(self, questions: Sequence[Question], decisions: Decisions, seconds: float) -> None:
        """See Observer."""
        ended = time.time_ns()
        started, first = ended - int(seconds * 1e9), None
        rows = {
            "tutelage.batch.rows": len(decisions.log_probabilities),
            "tutelage.batch.requests": len(questions),
        }
        for call, span in _traced(questions):
            parent = set_span_in_context(span)
            arrived = min(since_epoch(call.arrived), started)
            self._tracer.start_span("queue", parent, start_time=arrived).end(started)
            infer = self._tracer.start_span(
                "infer", parent, attributes=rows, links=_links(first), start_time=started
            )
            infer.end(ended)
            first = first or infer.get_span_context()

    def failed(self, question: Question) -> None:
        """The call's own span says so."""


def _traced(questions: Sequence[Question]) -> Iterator[tuple[WatchedCall, Span]]:
    for question in questions:
        call = getattr(question.call, "under", question.call)  # a turn of a session is not watched
        if isinstance(call, WatchedCall) and call.kept.is_recording():
            yield call, call.kept


def _links(first: SpanContext | None) -> list[Link]:
    return [Link(first)] if first else []
