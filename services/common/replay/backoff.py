"""Waiting for a replay that does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from services.common.errors import ReplayUnavailable, StorageFull

T = TypeVar("T")
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0


def patiently(
    operation: Callable[[], T],
    *,
    on_wait: Callable[[Exception, float], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> T:
    """Repeat an operation, which must be safe to repeat, until the replay takes it.

    Waits 0.1 s, twice as long each time, at most 5 s.

    Args:
        on_wait: told the error and the seconds until the next try.
        should_stop: when it says so, the error is raised instead of waiting on.

    Raises:
        ReplayUnavailable, StorageFull: the last one, once `should_stop()`.
    """
    wait_s = FIRST_WAIT_S
    while True:
        try:
            return operation()
        except (ReplayUnavailable, StorageFull) as error:
            if should_stop():
                raise
            on_wait(error, wait_s)
        _sleep(wait_s, should_stop)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _sleep(seconds: float, should_stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not should_stop() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
