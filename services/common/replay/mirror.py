"""A learner's local copy of a replay, from which it samples at the speed of memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from services.common.errors import ReplayDataLost
from services.common.replay.n_step import NStepBatch, n_step_batch
from services.common.replay.schema import Rows
from services.common.replay.store import ReplayStore
from services.common.replay.successors import NONE, Index, Successors
from services.common.replay.window import Window

ROWS_A_TRIP = 1 << 15
Relabel = Callable[[Rows], npt.NDArray[np.float32]]


class ReplayMirror:
    """Tails a replay into a ring of the same capacity. Not for several threads.

    Args:
        relabel: given rows `(n,)`, the rewards `(n,)` to learn from in place of the stored
            ones. It is asked once for each row, as it arrives; the replay itself keeps the
            environment's rewards.
    """

    def __init__(self, store: ReplayStore, relabel: Relabel | None = None) -> None:
        self._store = store
        self._relabel = relabel
        self._rows = store.schema.empty(store.capacity)
        self._successors = Successors(store.capacity)
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

    def sync(self) -> int:
        """Copy the rows appended since the last call; returns how many there were.

        Raises:
            ReplayUnavailable: when Redis does not answer; what was copied stays.
            ReplayDataLost: when the replay is gone from Redis.
        """
        copied = 0
        while True:
            head, first, data = self._store.tail(self._head, ROWS_A_TRIP)
            if head < self._head:
                self._start_over()
                continue
            rows = self._store.schema.unpack(data)
            self._write(first, rows)
            copied += len(rows)
            if self._head >= head:
                return copied

    def sample(self, batch_size: int, generator: np.random.Generator) -> Rows:
        """Uniformly drawn rows with replacement, shape `(batch_size,)`.

        Raises:
            ReplayDataLost: when there is no row.
        """
        return self._rows[self._draw(batch_size, generator)]

    def sample_n_step(
        self, batch_size: int, generator: np.random.Generator, n: int, discount: float
    ) -> NStepBatch:
        """Uniformly drawn n-step transitions; see `n_step_batch`.

        Raises:
            ReplayDataLost: when there is no row.
        """
        slots = self._draw(batch_size, generator)
        return n_step_batch(self._rows, self._successors.next_slot, slots, n, discount)

    def newest(self, count: int) -> Window:
        """The newest rows, at most `count`, with the links between them."""
        first = max(self._oldest, self._head - count)
        slots = np.arange(first, self._head) % self._store.capacity
        following = self._successors.next_slot[slots]
        position = (following - first) % self._store.capacity
        return Window(self._rows[slots], np.where(following == NONE, NONE, position))

    def _draw(self, batch_size: int, generator: np.random.Generator) -> Index:
        if not self.size:
            raise ReplayDataLost(f"replay {self._store.name} holds no rows to sample")
        return generator.integers(self._oldest, self._head, batch_size) % self._store.capacity

    def _write(self, first: int, rows: Rows) -> None:
        slots = np.arange(first, first + len(rows)) % self._store.capacity
        self._rows[slots] = rows
        if self._relabel is not None and len(rows):
            self._rows["reward"][slots] = self._relabel(rows)
        self._successors.link(slots, rows)
        if first > self._head:  # the ring lapped this mirror; older rows are gone
            self._oldest = first
        self._head = first + len(rows)
        self._oldest = max(self._oldest, self._head - self._store.capacity)

    def _start_over(self) -> None:
        # Redis came back with less than it had: its rows, not ours, are the replay's.
        self._head = self._oldest = 0
        self._successors.clear()
