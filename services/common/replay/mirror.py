"""A learner's local copy of a replay, from which it samples at the speed of memory."""

from __future__ import annotations

import time
from pathlib import Path

from services.common.errors import DataCorrupted
from services.common.replay.batch import Batch, SequenceBatch
from services.common.replay.local import LocalReplay, Sampling
from services.common.replay.producer import ReplayProducer
from services.common.replay.ration import Ration
from services.common.replay.ring import Ring
from services.common.replay.schema import Rows
from services.common.replay.shard import ReplayShard, Tail
from services.common.replay.store import ReplayStore

ROWS_A_TRIP = 1 << 15
FLUSH_PERIOD_S = 5.0
SAMPLER = "default"


class MirrorReplay(LocalReplay):
    """Tails a replay into rings of the same capacity, and samples there.

    The same rows in the same order give the same samples for the same generator. Not for
    several threads.

    Args:
        folder: where rows are mapped into memory instead of taking memory.
        sampler_name: under which the priorities are kept beside the replay.
    """

    def __init__(
        self,
        store: ReplayStore,
        sampling: Sampling,
        *,
        folder: Path | None = None,
        sampler_name: str = SAMPLER,
    ) -> None:
        paths = [folder / f"shard-{i}" if folder else None for i in range(len(store.shards))]
        rings = [
            Ring(store.schema, shard.capacity, path)
            for shard, path in zip(store.shards, paths, strict=True)
        ]
        super().__init__(store.name, store.schema, rings, sampling)
        self._store, self._sampler_name = store, sampler_name
        self._producer: ReplayProducer | None = None
        self._epochs: list[int | None] = [None] * len(rings)
        self._flush_due: float | None = None
        self._ration = store.limits and Ration(store.name, store.limits, self._sampled)

    def append(self, rows: Rows, timeout_s: float | None = None) -> int:
        """Append whole fragments, shape `(n,)`, to the store; see `ReplayProducer.append`.

        They can be sampled after `sync`.
        """
        if self._producer is None:
            self._producer = ReplayProducer(self._store)
        return self._producer.append(rows, timeout_s)

    def sync(self) -> int:
        """Copy the rows appended since the last call; returns how many there were.

        Raises:
            ReplayUnavailable: when Redis does not answer; what was copied stays.
            ReplayDataLost: when the replay is gone from Redis.
            DataCorrupted: when rows do not make whole fragments.
        """
        copied = sum(self._sync(i, shard) for i, shard in enumerate(self._store.shards))
        if self._prioritized is not None:
            self._keep_priorities()
        return copied

    def sample(self, batch_size: int) -> Batch:
        """See `LocalReplay.sample`; where there are limits, waits until they allow it.

        Raises:
            ReplayDataLost: when there is no row.
            ReplayUnavailable: when producers have not appended enough within 300 s.
        """
        if self._ration:
            self._ration.wait(batch_size, self.sync)
        return super().sample(batch_size)

    def sample_sequences(self, batch_size: int, length: int, burn_in: int = 0) -> SequenceBatch:
        """See `LocalReplay.sample_sequences`; a stretch counts once in the limits."""
        if self._ration:
            self._ration.wait(batch_size, self.sync)
        return super().sample_sequences(batch_size, length, burn_in)

    def checkpoint(self) -> None:
        """Make the priorities as durable as the rows are.

        Raises:
            ReplayUnavailable: when Redis does not answer; they are sent again next time.
        """
        if self._prioritized is None or self._flush_due is None:
            return
        for i, shard in enumerate(self._store.shards):
            blocks = list(self._prioritized.dirty_blocks(i))
            if blocks:
                shard.save_priorities(
                    self._sampler_name, self._rings[i].head, self._prioritized.maximum, blocks
                )
                self._prioritized.saved(i)
        self._flush_due = time.monotonic() + FLUSH_PERIOD_S

    def close(self) -> None:
        """Save the priorities; the client stays open, for it is the caller's."""
        self.checkpoint()

    def _sync(self, i: int, shard: ReplayShard) -> int:
        ring, copied, most = self._rings[i], 0, ROWS_A_TRIP
        while True:
            tail = shard.tail(ring.head, most, self._sampled[i])
            self._sampled[i] = 0
            if self._ration:
                self._ration.heard(i, tail)
            if tail.epoch != self._epochs[i] or tail.head < ring.head:
                if self._epochs[i] is not None:
                    self._start_over(i, tail)
                self._epochs[i] = tail.epoch
                continue
            before = ring.head
            self._write(i, tail.first, self.schema.unpack(tail.data))
            copied += ring.head - max(before, tail.first)
            if ring.head >= tail.head:
                return copied
            if ring.head == before:  # not even one whole fragment
                if most > ring.capacity:
                    raise DataCorrupted(
                        f"replay {self.name}: row {before} begins a fragment without an end; "
                        "`tutelage replay verify` shows where"
                    )
                most *= 2

    def _start_over(self, i: int, tail: Tail) -> None:
        # After a restart of Redis its rows, not ours, are the replay's: those from `epoch_head`
        # on may have been lost and sent again in another order.
        ring, came_back = self._rings[i], tail.previous_epoch == self._epochs[i]
        if came_back and ring.oldest < tail.epoch_head <= min(ring.head, tail.head):
            self._truncate(i, tail.epoch_head)
        else:
            self._truncate(i, 0)

    def _keep_priorities(self) -> None:
        if self._flush_due is None:
            self._restore_priorities()
            self._flush_due = time.monotonic() + FLUSH_PERIOD_S
        elif time.monotonic() >= self._flush_due:
            self.checkpoint()

    def _restore_priorities(self) -> None:
        assert self._prioritized is not None
        for i, shard in enumerate(self._store.shards):
            saved = shard.load_priorities(self._sampler_name)
            if saved is not None:
                self._prioritized.restore(i, saved.head, saved.maximum, saved.priorities)
