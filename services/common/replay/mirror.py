"""A learner's local copy of a replay, from which it samples at the speed of memory."""

from __future__ import annotations

import numpy as np

from services.common.errors import ReplayDataLost
from services.common.replay.schema import Rows
from services.common.replay.store import ReplayStore

ROWS_A_TRIP = 1 << 15


class ReplayMirror:
    """Tails a replay into a ring of the same capacity. Not for several threads."""

    def __init__(self, store: ReplayStore) -> None:
        self._store = store
        self._rows = store.schema.empty(store.capacity)
        self._head = 0
        self._oldest = 0

    @property
    def head(self) -> int:
        """Rows ever appended to the replay, as of the last `sync`."""
        return self._head

    @property
    def size(self) -> int:
        """Rows that can be sampled."""
        return self._head - self._oldest

    def sync(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Copy the rows appended since the last call; returns their slots in the ring.

        Raises:
            ReplayUnavailable: when Redis does not answer; what was copied stays.
            ReplayDataLost: when the replay is gone from Redis.
        """
        slots = [np.empty(0, np.int64)]
        while True:
            head, first, data = self._store.tail(self._head, ROWS_A_TRIP)
            if head < self._head:
                self._start_over()
                continue
            rows = self._store.schema.unpack(data)
            if len(rows):
                slots.append(self._write(first, rows))
            if self._head >= head:
                return np.concatenate(slots)

    def sample(self, batch_size: int, generator: np.random.Generator) -> Rows:
        """Uniformly drawn rows with replacement, shape `(batch_size,)`.

        Raises:
            ReplayDataLost: when there is no row.
        """
        return self._rows[self.sample_slots(batch_size, generator)]

    def sample_slots(
        self, batch_size: int, generator: np.random.Generator
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Slots of uniformly drawn rows, for learners that keep columns of their own beside."""
        if not self.size:
            raise ReplayDataLost(f"replay {self._store.name} holds no rows to sample")
        drawn = generator.integers(self._oldest, self._head, batch_size)
        return drawn % self._store.capacity

    def rows(self, slots: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Rows:
        """The rows in these slots, as a copy."""
        return self._rows[slots]

    def _write(self, first: int, rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        slots = np.arange(first, first + len(rows)) % self._store.capacity
        self._rows[slots] = rows
        if first > self._head:  # the ring lapped this mirror; older rows are gone
            self._oldest = first
        self._head = first + len(rows)
        self._oldest = max(self._oldest, self._head - self._store.capacity)
        return slots

    def _start_over(self) -> None:
        # Redis came back with less than it had: its rows, not ours, are the replay's.
        self._head = self._oldest = 0
