"""Keeps tracked decisions, so that what came of them can be reported.

Acting never fails, and hardly waits, for want of Redis: then the reply comes without a
`decision_id`, and a metric counts it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from services.common.errors import InvalidInput, TutelageError
from services.common.gathering import Gatherer
from services.common.outcomes import Decided
from services.common.server.calls import Call, Reply
from services.inference import metrics
from services.inference.batching import Question, TakeOver
from services.inference.decision_ids import DecisionId
from services.inference.distribution import Decisions
from services.inference.outcome_stores import OutcomeStores
from services.inference.versions import ServedVersion
from tutelage.v1 import policy_pb2 as pb

log = structlog.get_logger()

# Of the pauses after trips to Redis that failed, the first and the longest; each is twice the one
# before. A moment in which Redis is slow should cost the ids of that moment alone.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
WAITING = 4096


@dataclass(frozen=True, slots=True)
class _Tracked:
    call: Call
    decision: DecisionId
    decided: Decided
    reply: bytes


class Tracker:
    """Takes replies over, and gives them once Redis has the decision."""

    def __init__(self, stores: OutcomeStores) -> None:
        self._stores = stores
        self._away_until, self._pause_s = 0.0, FIRST_PAUSE_S
        self._keeping = Gatherer("tracking", self._keep, WAITING, self._give_up)

    def tracked(
        self, request: pb.ActRequest, served: ServedVersion, decision: DecisionId
    ) -> TakeOver:
        """What becomes of the reply to a request whose decision is to be kept under that id.

        Raises:
            InvalidInput: when the decision before was none, or another policy's.
            PreconditionFailed: when this version's decisions are of another kind than others'.
        """
        policy = served.manifest.policy
        previous = _previous(request.previous_decision_id, policy)
        self._stores.declare(policy, served.rows.schema)

        def take_over(
            question: Question, decisions: Decisions, row: int, reply: bytes
        ) -> Reply | None:
            packed = _packed(served, question, decisions, row)
            decided = Decided(decision.number, previous, packed)
            return self._begin(_Tracked(question.call, decision, decided, reply))

        return take_over

    def close(self, timeout_s: float) -> None:
        """Answer what has come, and stop."""
        self._keeping.close(timeout_s)

    def _begin(self, tracked: _Tracked) -> Reply | None:
        # While Redis is away, a trip now and then finds out whether it is back.
        if time.monotonic() >= self._away_until and self._keeping.add(tracked):
            return None
        metrics.UNTRACKED.labels(tracked.decision.policy).inc()
        return tracked.reply

    def _keep(self, items: list[_Tracked]) -> None:
        for policy in {item.decision.policy for item in items}:
            own = [item for item in items if item.decision.policy == policy]
            kept = self._kept(policy, own)
            (metrics.TRACKED if kept else metrics.UNTRACKED).labels(policy).inc(len(own))
            for item in own:
                item.call.answer(item.reply + _id_part(item.decision) if kept else item.reply)

    def _give_up(self, items: list[_Tracked], error: Exception) -> None:
        for item in items:
            metrics.UNTRACKED.labels(item.decision.policy).inc()
            item.call.answer(item.reply)

    def _kept(self, policy: str, items: list[_Tracked]) -> bool:
        if time.monotonic() < self._away_until:  # since these were queued
            return False
        try:
            lost = self._stores.waiting(policy).record([item.decided for item in items])
        except Exception as error:
            self._away_until = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            about = None if isinstance(error, TutelageError) else error
            log.warning("not tracked", policy=policy, reason=str(error), exc_info=about)
            return False
        self._pause_s = FIRST_PAUSE_S
        metrics.FORGOTTEN.labels(policy).inc(lost)
        return True


def _previous(text: str, policy: str) -> str:
    """The number of the decision that led to this one, or ""."""
    if not text:
        return ""
    decision = DecisionId.parse(text)
    if decision is None or decision.policy != policy:
        raise InvalidInput(
            f"previous_decision_id is {text[:200]!r}, expected a decision_id that Act gave for "
            f"policy {policy!r}, or none"
        )
    return decision.number


def _packed(served: ServedVersion, question: Question, decisions: Decisions, row: int) -> bytes:
    greedy = question.seeds is None
    return served.rows.decided(
        question.observations,
        question.masks,
        decisions.actions[row],
        0.0 if greedy else decisions.log_probabilities[row],  # a greedy action is certain
        served.manifest.version,
    )


def _id_part(decision: DecisionId) -> bytes:
    """What, appended to a serialized reply, gives it the decision's id."""
    part: bytes = pb.ActResponse(decision_id=str(decision)).SerializeToString()
    return part
