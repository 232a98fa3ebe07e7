"""Threads for longer runs, of which each policy uses so many at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

Work = Callable[[], None]


class Lane:
    """One policy's share of an executor, whichever of its versions asks.

    Args:
        most: pieces of work at once.
    """

    def __init__(self, executor: Executor, most: int) -> None:
        self._executor, self._most = executor, most
        self._lock = threading.Lock()  # of the two below
        self._running = 0
        self._waiting: deque[Work] = deque()

    def submit(self, work: Work) -> None:
        """Have it done, behind what waits already."""
        with self._lock:
            if self._running == self._most:
                self._waiting.append(work)
                return
            self._running += 1
        self._executor.submit(self._run, work)

    def _run(self, work: Work) -> None:
        try:
            work()
        finally:
            with self._lock:
                following = self._waiting.popleft() if self._waiting else None
                self._running -= following is None
            if following is not None:
                self._executor.submit(self._run, following)  # behind other policies' work


class Lanes:
    """Lanes by policy, made when they are asked for; in one thread."""

    def __init__(self, executor: Executor, most: int) -> None:
        self._executor, self._most = executor, most
        self._lanes: dict[str, Lane] = {}

    def of(self, policy: str) -> Lane:
        """A policy's."""
        if policy not in self._lanes:
            self._lanes[policy] = Lane(self._executor, self._most)
        return self._lanes[policy]
