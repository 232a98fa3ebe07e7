"""How many threads one policy gets, on real threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.inference.lanes import Lanes


def test_a_policy_uses_so_many_threads_and_leaves_the_others() -> None:
    go_on, others, done = threading.Event(), threading.Event(), threading.Event()
    order: list[int] = []

    with ThreadPoolExecutor(3) as executor:
        lanes = Lanes(executor, 2)
        started = threading.Semaphore(0)

        def wait(number: int) -> None:
            started.release()
            assert go_on.wait(20)
            order.append(number)
            if number == 3:
                done.set()

        for number in range(4):
            lanes.of("slow").submit(lambda n=number: wait(n))
        assert started.acquire(timeout=20)
        assert started.acquire(timeout=20)
        assert not started.acquire(blocking=False)
        lanes.of("other").submit(others.set)
        assert others.wait(20)
        go_on.set()
        assert done.wait(20)

    assert sorted(order) == [0, 1, 2, 3]


def test_work_that_fails_makes_room(recwarn: pytest.WarningsRecorder) -> None:
    done = threading.Event()

    def fail() -> None:
        raise RuntimeError("broken")

    with ThreadPoolExecutor(2) as executor:
        lane = Lanes(executor, 1).of("cartpole")
        lane.submit(fail)
        lane.submit(done.set)
        assert done.wait(20)
