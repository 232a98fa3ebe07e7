"""What comes meanwhile is worked on together, by a thread that nothing ends but closing it."""

from __future__ import annotations

import threading

from services.inference.gathering import Gatherer


def test_items_that_come_meanwhile_are_one_batch() -> None:
    begun, go_on, batches = threading.Event(), threading.Event(), list[list[int]]()

    def run(items: list[int]) -> None:
        batches.append(items)
        begun.set()
        assert go_on.wait(10)

    gatherer = Gatherer("test", run, 100)
    assert gatherer.add(0)
    assert begun.wait(10)
    for item in (1, 2, 3):
        assert gatherer.add(item)
    go_on.set()
    gatherer.close(10)
    assert batches == [[0], [1, 2, 3]]


def test_too_many_are_refused() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def run(items: list[int]) -> None:
        begun.set()
        assert go_on.wait(10)

    gatherer = Gatherer("test", run, 2)
    gatherer.add(0)
    assert begun.wait(10)
    assert [gatherer.add(item) for item in (1, 2, 3)] == [True, True, False]
    go_on.set()
    gatherer.close(10)


def test_a_batch_that_fails_does_not_end_it() -> None:
    begun, done = threading.Event(), list[int]()

    def run(items: list[int]) -> None:
        begun.set()
        if 0 in items:
            raise ValueError("no zeros")
        done.extend(items)

    gatherer = Gatherer("test", run, 100)
    gatherer.add(0)
    assert begun.wait(10)  # with no other
    gatherer.add(1)
    gatherer.close(10)
    assert done == [1]
