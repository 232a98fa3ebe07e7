"""Patience: it waits longer each time, says so, and ends when asked."""

from __future__ import annotations

import pytest

from services.common.errors import InvalidInput, ReplayUnavailable, StorageFull
from services.common.replay import backoff
from services.common.replay.backoff import patiently


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been slept, by wait."""
    slept: list[float] = []
    monkeypatch.setattr(backoff, "_sleep", lambda seconds, should_stop: slept.append(seconds))
    return slept


class Flaky:
    """Fails with these errors first, then gives 'done'."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_waits_twice_as_long_each_time_up_to_five_seconds(waits: list[float]) -> None:
    told: list[tuple[str, float]] = []
    operation = Flaky(*(ReplayUnavailable(f"no {i}") for i in range(8)))
    result = patiently(operation, on_wait=lambda error, s: told.append((str(error), s)))
    assert result == "done"
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5])
    assert told == [(f"no {i}", wait) for i, wait in enumerate(waits)]


def test_a_full_replay_is_waited_for_too(waits: list[float]) -> None:
    assert patiently(Flaky(StorageFull("full")), on_wait=lambda error, s: None) == "done"
    assert len(waits) == 1


def test_what_waiting_does_not_cure_is_raised_at_once(waits: list[float]) -> None:
    with pytest.raises(InvalidInput):
        patiently(Flaky(InvalidInput("no")), on_wait=lambda error, s: None)
    assert not waits


def test_when_asked_to_stop_the_error_is_raised(waits: list[float]) -> None:
    operation = Flaky(*(ReplayUnavailable(f"no {i}") for i in range(9)))
    with pytest.raises(ReplayUnavailable, match="no 3"):
        patiently(operation, on_wait=lambda error, s: None, should_stop=lambda: len(waits) == 3)


def test_a_wait_is_cut_short_when_asked_to_stop() -> None:
    asked = iter([False, False, True, True])
    operation = Flaky(ReplayUnavailable("one"), ReplayUnavailable("two"))
    with pytest.raises(ReplayUnavailable, match="two"):
        patiently(operation, on_wait=lambda error, s: None, should_stop=lambda: next(asked))
