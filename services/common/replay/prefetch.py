"""Batches made ahead in a thread, while the learner is busy with the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Keeps `depth` results of `make` under way; errors come out of `take`.

    `make` runs in one other thread, one call after another.
    """

    def __init__(self, make: Callable[[], T], depth: int) -> None:
        self._make, self._depth = make, depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="replay-prefetch")
        self._waiting: deque[Future[T]] = deque()

    def take(self) -> T:
        """The oldest result, waiting for it if need be."""
        while len(self._waiting) <= self._depth:
            self._waiting.append(self._pool.submit(self._make))
        return self._waiting.popleft().result()

    def close(self) -> None:
        """Stop; what was made ahead is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()
