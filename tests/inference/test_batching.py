"""Micro-batching: who shares a run, who is refused, who is dropped."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pending_call import PendingCall
from tiny_policies import CARTPOLE, linear_model

from services.common.errors import InvalidInput, ResourceExhausted
from services.common.server.calls import Reply
from services.inference.batching import Batcher, Question
from services.inference.distribution import Decisions
from services.inference.runner import Observations, Parameters, PolicyRunner


class RecordingRunner(PolicyRunner):
    """Remembers its batches; when told to be slow, waits to be let go in each."""

    def __init__(self, *, slow: bool = False) -> None:
        super().__init__(linear_model(), CARTPOLE)
        self.batches: list[int] = []
        self.slow = slow
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.threads: set[str] = set()

    def run_s(self, rows: int) -> float:
        return 1.0 if self.slow else 1e-5

    def run(self, observations: Observations, masks: np.ndarray | None = None) -> Parameters:
        self.entered.release()
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


def encode(question: Question, decisions: Decisions, start: int) -> bytes:
    rows = slice(start, start + question.rows)
    return json.dumps([decisions.actions[rows], decisions.log_probabilities[rows]]).encode()


def lean(angle: float, rows: int = 1, **rest: object) -> Question:
    observations = np.full((rows, 4), [0, 0, angle, 0], dtype=np.float32)
    return Question(PendingCall(), encode, observations, rows, **rest)


def answers(batcher: Batcher, questions: Sequence[Question]) -> list[Reply]:
    """Every question's reply, whenever it comes."""
    now = batcher.ask(questions)
    return [
        q.call.wait() if reply is None else reply for q, reply in zip(questions, now, strict=True)
    ]


def action(reply: Reply) -> int:
    assert isinstance(reply, bytes)
    return json.loads(reply)[0][0]


def test_questions_that_arrive_together_share_a_run(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner()

    replies = make(runner, executor).ask([lean(a) for a in (1, -1, 1)])

    assert runner.batches == [3]
    assert runner.threads == {threading.current_thread().name}
    assert [action(reply) for reply in replies] == [1, 0, 1]


def test_batches_hold_at_most_max_batch_rows(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner()

    make(runner, executor, max_batch=4).ask([lean(1, rows) for rows in (1, 2, 2, 9, 1)])

    assert runner.batches == [3, 2, 9, 1]  # a question is never torn apart


def test_slow_models_leave_the_thread_and_gather_a_queue(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner(slow=True)
    batcher = make(runner, executor)
    first = lean(1)
    assert batcher.ask([first]) == [None]
    assert runner.entered.acquire(timeout=20)  # the model runs, and this thread goes on
    rest = [lean(-1) for _ in range(5)]
    assert [batcher.ask([question]) for question in rest] == [[None]] * 5
    runner.gate.release(2)

    replies = [question.call.wait() for question in (first, *rest)]

    assert runner.batches == [1, 5]
    assert threading.current_thread().name not in runner.threads
    assert [action(reply) for reply in replies] == [1, 0, 0, 0, 0, 0]


def test_a_full_queue_refuses_at_once(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner(slow=True)
    batcher = make(runner, executor, queue_limit=3)
    batcher.ask([running := lean(1)])
    assert runner.entered.acquire(timeout=20)
    asked = [lean(1) for _ in range(4)]

    replies = batcher.ask(asked)

    assert replies[:3] == [None] * 3
    assert isinstance(replies[3], ResourceExhausted)
    assert "3 observations are waiting for policy 'cartpole', the limit is 3" in str(replies[3])
    runner.gate.release(3)
    assert [action(q.call.wait()) for q in (running, *asked[:3])] == [1] * 4
    assert [*map(action, answers(batcher, [lean(1, rows=50)]))] == [1]  # too large, but alone


def test_cancelled_questions_do_not_reach_the_model(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner(slow=True)
    batcher = make(runner, executor)
    batcher.ask([lean(1)])
    assert runner.entered.acquire(timeout=20)
    gone, kept = lean(1, rows=5), lean(1)
    batcher.ask([gone, kept])
    gone.call.gone = True
    runner.gate.release(2)

    kept.call.wait()

    assert runner.batches == [1, 1]
    assert not gone.call.is_answered()


def test_a_queue_of_the_cancelled_leaves_the_batcher_usable(executor: ThreadPoolExecutor) -> None:
    runner = RecordingRunner(slow=True)
    batcher = make(runner, executor)
    batcher.ask([first := lean(1)])
    assert runner.entered.acquire(timeout=20)
    batcher.ask([gone := lean(1)])
    gone.call.gone = True
    runner.gate.release(2)
    first.call.wait()
    runner.slow = False

    assert [*map(action, answers(batcher, [lean(1)]))] == [1]


def test_an_observation_the_model_cannot_take_fails_alone(executor: ThreadPoolExecutor) -> None:
    replies = make(RecordingRunner(), executor).ask([lean(1), lean(3e38), lean(-1)])

    assert isinstance(replies[1], InvalidInput)
    assert [action(replies[0]), action(replies[2])] == [1, 0]


def test_mixed_questions_are_decided_as_if_alone(executor: ThreadPoolExecutor) -> None:
    batcher = make(RecordingRunner(), executor, max_batch=64)
    questions = [
        lean(0.1),
        lean(0.1, masks=np.array([[True, False]])),
        lean(0.1, rows=2, seeds=np.array([7, 8], dtype=np.uint64)),
        lean(0.1, temperature=0.5, seeds=np.array([9], dtype=np.uint64)),
    ]

    assert batcher.ask(questions) == [batcher.ask([question])[0] for question in questions]
