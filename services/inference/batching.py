"""Runs waiting questions as one batch, without making any of them wait for company.

Questions that arrive together are run together, at once where the model is quick. Where it
is not, they wait in a queue that a thread works off, and those that arrive in the meantime
share its next run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import numpy.typing as npt

from services.common.errors import ResourceExhausted
from services.common.server.calls import Call, Reply
from services.inference import metrics
from services.inference.decision_ids import DecisionId
from services.inference.distribution import Decisions, Masks, Seeds
from services.inference.lanes import Lane
from services.inference.runner import Observations, Parameters, PolicyRunner, States


@dataclass(slots=True, eq=False)
class Memory:
    """What a question brings of a recurrent policy's state, and what is left after it.

    before: (n, state_size). starts: (n,) whether an episode starts with a row, whose state is
        then zero.
    after: (n, state_size) once it has been answered.
    was_reset: whether a row that starts no episode has nothing before it.
    """

    starts: npt.NDArray[np.bool_]
    before: States | None = None
    after: States | None = None
    was_reset: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request is of no matter to the decision, but to a log of decisions.

    alias: that was followed; "" where the version was named.
    decisions: of each row that is tracked, else none.
    """

    alias: str
    session: str
    decisions: Sequence[DecisionId] = ()


@dataclass(slots=True, eq=False)
class Question:
    """One or more observations `(n, *shape)` to decide on together, checked against the spec.

    call: who asks. encode: makes the reply. rows: n. masks: (n, actions); None allows all.
    seeds: (n,); None is greedy. epsilon: of rows that are drawn ε-greedily.
    with_probabilities, with_value: whether the reply has them.
    critic: gives (n,) values of observations and masks, where the policy's output does not.
    take_over: gives the reply in its own time, if any does.
    memory: where the policy is recurrent.
    asked: None: no decisions are logged.
    instead: gives the reply in place of an error, where there is a default action.
    values: (n,) once they have been asked for.
    """

    call: Call
    encode: Encode
    observations: Observations
    rows: int
    masks: Masks | None = None
    temperature: float = 1.0
    seeds: Seeds | None = None
    epsilon: float | None = None
    with_probabilities: bool = False
    with_value: bool = False
    take_over: TakeOver | None = None
    memory: Memory | None = None
    asked: Asked | None = None
    instead: Instead | None = None
    critic: Critic | None = None
    values: list[float] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the policy's output is all there is to decide by."""
        return self.seeds is None and self.masks is None and self.temperature == 1.0


# A question's serialized reply, from the decisions of its whole batch and the row at which its
# own start.
Encode = Callable[[Question, Decisions, int], bytes]
# The same with the serialized reply, which is given now, or later (None) by the call's `answer`.
TakeOver = Callable[[Question, Decisions, int, bytes], Reply | None]
Critic = Callable[[Observations, Masks | None], npt.NDArray[np.float32]]
# What a call is answered in place of an error, which may be the error.
Instead = Callable[[Call, Exception], Reply]


class Observer(Protocol):
    """Sees what a version does; is quick, and never raises."""

    def ran(self, questions: Sequence[Question], decisions: Decisions, seconds: float) -> None:
        """A batch took so long; the decisions' rows are those of the questions in order."""

    def failed(self, question: Question) -> None:
        """The version could not answer."""


class Batcher:
    """Runs the questions of one loaded version, whichever threads they come from.

    observers: see what it does.
    """

    def __init__(
        self,
        runner: PolicyRunner,
        *,
        policy: str,
        executor: Lane,
        max_batch: int,
        queue_limit: int,
        inline_s: float,
    ) -> None:
        self.runner = runner
        self._executor = executor
        self._max_batch = max_batch
        self._queue_limit = queue_limit
        self._inline_s = inline_s
        self._lock = threading.Lock()  # of the three below
        self._queue: deque[Question] = deque()
        self._rows = 0
        self._working = False
        self.observers: tuple[Observer, ...] = ()
        self._policy = policy
        self._queued = metrics.QUEUE.labels(policy)
        self._ran = metrics.RUN.labels(policy)
        self._batch_rows = metrics.BATCH_ROWS.labels(policy)

    def ask(self, questions: Sequence[Question]) -> list[Reply | None]:
        """Replies to questions: at once where the model is quick and nobody is waiting for it.

        None stands for one that was queued: its call is answered from another thread. One that
        is too many for the queue has ResourceExhausted for a reply.
        """
        rows = sum([question.rows for question in questions])
        if not self._working and self.runner.run_s(rows) <= self._inline_s:
            if rows <= self._max_batch:
                return self._replies(questions)
            return [
                reply
                for batch in split(questions, self._max_batch)
                for reply in self._replies(batch)
            ]
        return self._enqueue(questions)

    def _enqueue(self, questions: Sequence[Question]) -> list[Reply | None]:
        with self._lock:
            refusals = [self._wait_or_refuse(question) for question in questions]
            idle = not self._working
            self._working = True
        if idle:
            self._executor.submit(self._work)
        return list(refusals)

    def _wait_or_refuse(self, question: Question) -> ResourceExhausted | None:
        if self._queue and self._rows + question.rows > self._queue_limit:
            metrics.REFUSED.labels(self._policy).inc()
            return ResourceExhausted(
                f"{self._rows} observations are waiting for policy {self._policy!r}, "
                f"the limit is {self._queue_limit}; try again in a moment"
            )
        self._queue.append(question)
        self._rows += question.rows
        return None

    def _work(self) -> None:
        with self._lock:
            batch = self._take()
            self._working = bool(batch)
        if not batch:
            return
        try:
            replies = self._replies(batch)
        except Exception as error:  # noqa: BLE001 - who waits is told, and who comes is served
            replies = [error] * len(batch)
        for question, given in zip(batch, replies, strict=True):
            reply = given
            if isinstance(reply, Exception) and question.instead is not None:
                reply = question.instead(question.call, reply)
            if reply is not None:
                question.call.answer(reply)
        self._executor.submit(self._work)  # behind what waits for other versions

    def _take(self) -> list[Question]:
        batch: list[Question] = []
        rows = 0
        while self._queue:
            question = self._queue[0]
            if question.call.cancelled():
                metrics.DROPPED.labels(self._policy).inc()
            elif batch and rows + question.rows > self._max_batch:
                break
            else:
                batch.append(question)
                rows += question.rows
            self._queue.popleft()
            self._rows -= question.rows
        return batch

    def _replies(self, questions: Sequence[Question]) -> list[Reply | None]:
        started, clock = time.perf_counter(), time.monotonic()
        self._queued.observe_all([clock - question.call.arrived for question in questions])
        try:
            decisions, starts = _decide(self.runner, questions)
            encoded = [
                question.encode(question, decisions, start)
                for question, start in zip(questions, starts, strict=True)
            ]
        except Exception as error:  # noqa: BLE001 - whatever it is, each of them is answered
            if len(questions) == 1:
                for observer in self.observers:
                    observer.failed(questions[0])
                return [error]
            # One question the model cannot take must not fail the others.
            return [reply for question in questions for reply in self._replies([question])]
        seconds = time.perf_counter() - started
        self._batch_rows.observe(len(decisions.log_probabilities))
        self._ran.observe(seconds)
        for observer in self.observers:
            observer.ran(questions, decisions, seconds)
        if not any(question.take_over for question in questions):
            return [*encoded]
        return [
            reply if question.take_over is None else _taken_over(question, decisions, start, reply)
            for question, start, reply in zip(questions, starts, encoded, strict=True)
        ]


def _taken_over(question: Question, decisions: Decisions, start: int, reply: bytes) -> Reply | None:
    assert question.take_over is not None
    try:
        return question.take_over(question, decisions, start, reply)
    except Exception as error:  # noqa: BLE001 - whatever it is, the call is answered
        return error


def split(questions: Sequence[Question], most: int) -> Iterator[Sequence[Question]]:
    """Batches of at most so many rows; a question is never torn apart."""
    start, rows = 0, 0
    for i, question in enumerate(questions):
        if i > start and rows + question.rows > most:
            yield questions[start:i]
            start, rows = i, 0
        rows += question.rows
    yield questions[start:]


def _decide(runner: PolicyRunner, questions: Sequence[Question]) -> tuple[Decisions, Sequence[int]]:
    """Decisions for all rows, and the row at which each question's own start."""
    observations = _together(questions)
    run = runner.run if questions[0].memory is None else _remembering(runner, questions)
    if all(question.is_plain for question in questions):
        decisions = runner.decide(run(observations, None))
    else:
        counts = [question.rows for question in questions]
        masks = joined_masks([q.masks for q in questions], counts, runner.spec.actions)
        decisions = runner.decide(
            run(observations, masks),
            masks=masks,
            temperatures=_temperatures(questions, counts),
            **_draws(questions, counts),
        )
    if len(observations) == len(questions):
        return decisions, range(len(questions))
    return decisions, [0, *accumulate([question.rows for question in questions[:-1]])]


def _remembering(
    runner: PolicyRunner, questions: Sequence[Question]
) -> Callable[[Observations, Masks | None], Parameters]:
    """As `run` of a recurrent policy's runner, from each question's state to the one after it."""
    memories = [q.memory for q in questions if q.memory is not None]

    def run(observations: Observations, masks: Masks | None) -> Parameters:
        before = [memory.before for memory in memories if memory.before is not None]
        parameters, after = runner.step(observations, masks, np.concatenate(before))
        start = 0
        for question, memory in zip(questions, memories, strict=True):
            memory.after = after[start : start + question.rows]
            start += question.rows
        return parameters

    return run


def _together(questions: Sequence[Question]) -> Observations:
    if len(questions) == 1:
        return questions[0].observations
    return np.concatenate([question.observations for question in questions])


def joined_masks(masks: Sequence[Masks | None], rows: Sequence[int], actions: int) -> Masks | None:
    """The masks of questions of so many rows as one array; None allows all."""
    if all(mask is None for mask in masks):
        return None
    return np.concatenate(
        [
            np.ones((count, actions), dtype=np.bool_) if mask is None else mask
            for mask, count in zip(masks, rows, strict=True)
        ]
    )


def _temperatures(questions: Sequence[Question], counts: list[int]) -> np.ndarray | None:
    if all(question.temperature == 1.0 for question in questions):
        return None
    return np.repeat([question.temperature for question in questions], counts)


def _draws(questions: Sequence[Question], counts: list[int]) -> dict[str, np.ndarray]:
    if all(question.seeds is None for question in questions):
        return {}
    seeds = [np.zeros(q.rows, dtype=np.uint64) if q.seeds is None else q.seeds for q in questions]
    draws = {
        "sampled": np.repeat([question.seeds is not None for question in questions], counts),
        "seeds": np.concatenate(seeds),
    }
    if any(question.epsilon is not None for question in questions):
        epsilons = [np.nan if q.epsilon is None else q.epsilon for q in questions]
        draws["epsilons"] = np.repeat(epsilons, counts)
    return draws
