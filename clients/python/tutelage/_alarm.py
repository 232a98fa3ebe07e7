"""A time limit for what is done again and again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Alarm:
    """Calls a function once the time set is up. Setting it costs next to nothing.

    Its thread is woken only where it would look too late, and not each time it is set: so of
    limits alike, set one after another, only the first wakes it.
    """

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring
        self._due = math.inf
        self._looks = math.inf  # when the thread will look at what is due
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def set(self, due: float) -> None:
        """Ring at a moment of time.monotonic(), unless it is changed before."""
        self._due = due
        if due < self._looks:
            with self._changed:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._watch, daemon=True)
                    self._thread.start()
                self._changed.notify()

    def clear(self) -> None:
        """Ring at no time."""
        self._due = math.inf

    def close(self) -> None:
        """Ring no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                # In this order: whoever sets a time either sees that or is seen.
                self._looks = math.inf
                self._looks = due = self._due
                left = due - time.monotonic()
                if left <= 0:
                    self._due = math.inf
                    self._ring()
                else:
                    self._changed.wait(left if left < math.inf else None)
