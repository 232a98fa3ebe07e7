"""Micro-batching: who shares a run, who is refused, who is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_policies import CARTPOLE, linear_model

from services.common.errors import InvalidInput, ResourceExhausted
from services.inference.batching import Batcher, Question
from services.inference.runner import Observations, Parameters, PolicyRunner


class RecordingRunner(PolicyRunner):
    """Remembers its batches; when told to be slow, waits to be let go in each."""

    def __init__(self, *, slow: bool = False) -> None:
        super().__init__(linear_model(), CARTPOLE)
        self.batches: list[int] = []
        self.slow = slow
        self.gate = threading.Semaphore(0)
        self.threads: set[str] = set()

    def run_s(self, rows: int) -> float:
        return 1.0 if self.slow else 1e-5

    def run(self, observations: Observations, masks: np.ndarray | None = None) -> Parameters:
        if self.slow:
            assert self.gate.acquire(timeout=20)
        self.batches.append(len(observations))
        self.threads.add(threading.current_thread().name)
        return super().run(observations, masks)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2, "inference") as threads:
        yield threads


def make(runner: PolicyRunner, executor: ThreadPoolExecutor, **changes: int) -> Batcher:
    limits = {"max_batch": 8, "queue_limit": 100, **changes}
    return Batcher(runner, policy="cartpole", executor=executor, inline_s=2e-4, **limits)


def lean(angle: float, rows: int = 1, **rest: object) -> Question:
    return Question(np.full((rows, 4), [0, 0, angle, 0], dtype=np.float32), **rest)


async def test_requests_of_one_turn_share_a_run(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner()
    batcher = make(runner, executor)

    answers = await asyncio.gather(*(batcher.ask(lean(a)) for a in (1, -1, 1)))

    assert runner.batches == [3]
    assert runner.threads == {threading.current_thread().name}
    assert [a.decisions.actions[a.start] for a in answers] == [1, 0, 1]


async def test_a_lone_request_does_not_wait(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner()
    asked = make(runner, executor).ask(lean(1))

    await asyncio.sleep(0)

    assert asked.done()


async def test_batches_hold_at_most_max_batch_rows(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner()
    batcher = make(runner, executor, max_batch=4)

    await asyncio.gather(*(batcher.ask(lean(1, rows)) for rows in (1, 2, 2, 9, 1)))

    assert runner.batches == [3, 2, 9, 1]  # a question is never torn apart


async def test_slow_models_leave_the_loop_and_gather_a_queue(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner(slow=True)
    batcher = make(runner, executor)
    first = batcher.ask(lean(1))
    await asyncio.sleep(0.01)  # the loop turns while the model runs
    rest = [batcher.ask(lean(-1)) for _ in range(5)]
    runner.gate.release(2)

    answers = await asyncio.gather(first, *rest)

    assert runner.batches == [1, 5]
    assert threading.current_thread().name not in runner.threads
    assert [a.decisions.actions[a.start] for a in answers] == [1, 0, 0, 0, 0, 0]


async def test_a_full_queue_refuses_at_once(executor: ThreadPoolExecutor) -> None:
    batcher = make(RecordingRunner(), executor, queue_limit=3)
    asked = [batcher.ask(lean(1)) for _ in range(3)]

    with pytest.raises(ResourceExhausted, match=r"3 observations are waiting .* limit is 3"):
        batcher.ask(lean(1))

    await asyncio.gather(*asked)
    await batcher.ask(lean(1, rows=50))  # larger than the limit, but alone


async def test_cancelled_requests_do_not_reach_the_model(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner()
    batcher = make(runner, executor)
    gone, kept = batcher.ask(lean(1, rows=5)), batcher.ask(lean(1))
    gone.cancel()

    await kept

    assert runner.batches == [1]


async def test_a_batch_of_the_cancelled_leaves_the_queue_usable(
    executor: ThreadPoolExecutor,
) -> None:
    batcher = make(RecordingRunner(), executor)
    batcher.ask(lean(1)).cancel()
    await asyncio.sleep(0)

    assert (await batcher.ask(lean(1))).decisions.actions == [1]


async def test_an_observation_the_model_cannot_take_fails_alone(
    executor: ThreadPoolExecutor,
) -> None:
    batcher = make(RecordingRunner(), executor)

    outcomes = await asyncio.gather(
        batcher.ask(lean(1)), batcher.ask(lean(3e38)), batcher.ask(lean(-1)), return_exceptions=True
    )

    assert isinstance(outcomes[1], InvalidInput)
    assert [o.decisions.actions[o.start] for o in (outcomes[0], outcomes[2])] == [1, 0]


async def test_mixed_questions_are_decided_as_if_alone(executor: ThreadPoolExecutor) -> None:
    batcher = make(RecordingRunner(), executor, max_batch=64)
    questions = [
        lean(0.1),
        lean(0.1, masks=np.array([[True, False]])),
        lean(0.1, rows=2, seeds=np.array([7, 8], dtype=np.uint64)),
        lean(0.1, temperature=0.5, seeds=np.array([9], dtype=np.uint64)),
    ]
    alone = [await batcher.ask(question) for question in questions]
    together = await asyncio.gather(*(batcher.ask(question) for question in questions))

    for question, one, shared in zip(questions, alone, together, strict=True):
        rows = slice(shared.start, shared.start + question.rows)
        assert shared.decisions.actions[rows] == one.decisions.actions
        assert shared.decisions.log_probabilities[rows] == one.decisions.log_probabilities
