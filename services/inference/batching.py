"""Runs waiting requests as one batch, without making any of them wait for company.

A request is queued and the queue is run in the event loop's next turn. Requests that arrived
in one turn, or while a longer run was under way in a thread, share a run.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from services.common.errors import ResourceExhausted, TutelageError
from services.inference import metrics
from services.inference.distribution import Decisions, Masks, Seeds
from services.inference.runner import Observations, PolicyRunner


@dataclass(frozen=True, slots=True)
class Question:
    """One or more observations `(n, *shape)` to decide on together, checked against the spec.

    masks: (n, actions); None allows all. seeds: (n,); None is greedy.
    """

    observations: Observations
    masks: Masks | None = None
    temperature: float = 1.0
    seeds: Seeds | None = None

    @property
    def rows(self) -> int:
        """Number of observations."""
        return len(self.observations)


@dataclass(frozen=True, slots=True)
class Answer:
    """The decisions of a whole batch, and the row at which the question's own start."""

    decisions: Decisions
    start: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    question: Question
    future: asyncio.Future[Answer]
    since: float


Outcome = Answer | TutelageError


class Batcher:
    """The queue of one loaded version. Belongs to one event loop."""

    def __init__(
        self,
        runner: PolicyRunner,
        *,
        policy: str,
        executor: Executor,
        max_batch: int,
        queue_limit: int,
        inline_s: float,
    ) -> None:
        self.runner = runner
        self._executor = executor
        self._max_batch = max_batch
        self._queue_limit = queue_limit
        self._inline_s = inline_s
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Waiting] = deque()
        self._rows = 0
        self._scheduled = False
        self._policy = policy
        self._queued = metrics.QUEUE.labels(policy)
        self._ran = metrics.RUN.labels(policy)
        self._batch_rows = metrics.BATCH_ROWS.labels(policy)

    def ask(self, question: Question) -> asyncio.Future[Answer]:
        """Queue a question; cancelling the future takes it out again.

        Raises:
            ResourceExhausted: at once, when too many observations are waiting.
        """
        if self._queue and self._rows + question.rows > self._queue_limit:
            metrics.REFUSED.labels(self._policy).inc()
            raise ResourceExhausted(
                f"{self._rows} observations are waiting for policy {self._policy!r}, "
                f"the limit is {self._queue_limit}; try again in a moment"
            )
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._queue.append(_Waiting(question, future, time.perf_counter()))
        self._rows += question.rows
        self._schedule()
        return future

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run_next)

    def _run_next(self) -> None:
        batch = self._take()
        if not batch:
            self._scheduled = False
            return
        started = time.perf_counter()
        for waiting in batch:
            self._queued.observe(started - waiting.since)
        questions = [waiting.question for waiting in batch]
        if self.runner.run_s(sum(q.rows for q in questions)) <= self._inline_s:
            self._finish(batch, self._answer(questions))
        else:
            run = self._loop.run_in_executor(self._executor, self._answer, questions)
            run.add_done_callback(lambda done: self._finish(batch, done.result()))

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            waiting = self._queue[0]
            if waiting.future.done():
                metrics.DROPPED.labels(self._policy).inc()
            elif batch and rows + waiting.question.rows > self._max_batch:
                break
            else:
                batch.append(waiting)
                rows += waiting.question.rows
            self._queue.popleft()
            self._rows -= waiting.question.rows
        return batch

    def _finish(self, batch: list[_Waiting], outcomes: list[Outcome]) -> None:
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.future.done():
                continue
            if isinstance(outcome, Answer):
                waiting.future.set_result(outcome)
            else:
                waiting.future.set_exception(outcome)
        self._scheduled = False
        if self._queue:
            self._schedule()

    def _answer(self, questions: list[Question]) -> list[Outcome]:
        started = time.perf_counter()
        try:
            outcomes: list[Outcome] = list(_answer_together(self.runner, questions))
        except TutelageError as error:
            if len(questions) == 1:
                return [error]
            # One question the model cannot take must not fail the others.
            return [outcome for question in questions for outcome in self._answer([question])]
        self._batch_rows.observe(sum(question.rows for question in questions))
        self._ran.observe(time.perf_counter() - started)
        return outcomes


def _answer_together(runner: PolicyRunner, questions: list[Question]) -> list[Answer]:
    if len(questions) == 1:
        (question,) = questions
        return [Answer(_decide_one(runner, question), 0)]
    observations = np.concatenate([question.observations for question in questions])
    counts = [question.rows for question in questions]
    masks = _masks(questions, runner.spec.actions)
    decisions = runner.decide(
        runner.run(observations, masks),
        masks=masks,
        temperatures=_temperatures(questions, counts),
        **_draws(questions, counts),
    )
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    return [Answer(decisions, start) for start in starts]


def _decide_one(runner: PolicyRunner, question: Question) -> Decisions:
    return runner.decide(
        runner.run(question.observations, question.masks),
        masks=question.masks,
        temperatures=_temperatures([question], [question.rows]),
        **_draws([question], [question.rows]),
    )


def _masks(questions: list[Question], actions: int) -> Masks | None:
    if all(question.masks is None for question in questions):
        return None
    return np.concatenate(
        [
            np.ones((q.rows, actions), dtype=np.bool_) if q.masks is None else q.masks
            for q in questions
        ]
    )


def _temperatures(questions: list[Question], counts: list[int]) -> np.ndarray | None:
    if all(question.temperature == 1.0 for question in questions):
        return None
    return np.repeat([question.temperature for question in questions], counts)


def _draws(questions: list[Question], counts: list[int]) -> dict[str, np.ndarray]:
    if all(question.seeds is None for question in questions):
        return {}
    seeds = [np.zeros(q.rows, dtype=np.uint64) if q.seeds is None else q.seeds for q in questions]
    return {
        "sampled": np.repeat([question.seeds is not None for question in questions], counts),
        "seeds": np.concatenate(seeds),
    }
