"""A thread that works on what has come in meanwhile, all at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

Item = TypeVar("Item")
AT_ONCE = 256


class Gatherer(Generic[Item]):
    """Hands items to a function that may block, such as for a trip to Redis.

    While that is under way, others wait for the next call.

    Args:
        run: should not raise; what it raises is logged, for the items to come must not wait for
            a thread that is no more.
        most: items that may wait.
        failed: told of the items that `run` raised on, and of what, so that nobody waits for
            them in vain; some may have been worked on before.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[Item]], None],
        most: int,
        failed: Callable[[list[Item], Exception], None] | None = None,
    ) -> None:
        self._run, self._most, self._failed = run, most, failed
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def add(self, item: Item) -> bool:
        """Have an item worked on, from any thread; False when too many are waiting."""
        if self._queue.qsize() >= self._most:
            return False
        self._queue.put(item)
        return True

    def close(self, timeout_s: float) -> None:
        """Work off what has come, and stop."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while self._work_off():
            pass

    def _work_off(self) -> bool:
        """Wait for items, and have them worked on; whether there may be more."""
        items = [self._queue.get()]
        while len(items) < AT_ONCE and not self._queue.empty():
            items.append(self._queue.get())
        kept = [item for item in items if item is not None]
        if kept:
            self._work_on(kept)
        return len(kept) == len(items)

    def _work_on(self, items: list[Item]) -> None:
        try:
            self._run(items)
        except Exception as error:
            log.exception("failed on what came together", thread=self._thread.name)
            if self._failed is not None:
                self._give_up(self._failed, items, error)

    def _give_up(
        self,
        failed: Callable[[list[Item], Exception], None],
        items: list[Item],
        error: Exception,
    ) -> None:
        try:
            failed(items, error)
        except Exception:
            log.exception("failed to say so", thread=self._thread.name)
