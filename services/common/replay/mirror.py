"""A learner's local copy of a replay, from which it samples at the speed of memory."""

from __future__ import annotations

import math
import time
from pathlib import Path

from services.common.errors import DataCorrupted
from services.common.replay.answers import Appended, Tail
from services.common.replay.batch import Batch, SequenceBatch
from services.common.replay.echo import Echo
from services.common.replay.local import LocalReplay, Sampling
from services.common.replay.producer import ReplayProducer
from services.common.replay.ration import Ration
from services.common.replay.ring import Ring
from services.common.replay.schema import Rows
from services.common.replay.shard import ReplayShard
from services.common.replay.store import ReplayStore

ROWS_A_TRIP = 1 << 15
FLUSH_PERIOD_S = 5.0
REPORT_PERIOD_S = 1.0
SAMPLER = "default"


class MirrorReplay(LocalReplay):
    """Tails a replay into rings of the same capacity, and samples there.

    The same rows in the same order give the same samples for the same generator. Not for
    several threads.

    Rows appended here are taken from here once Redis has them. A learner that collects for
    itself with `append_ahead` so pays one round trip a chunk, and does not wait for it; what
    others appended is read when there is some, and every second samples are reported.

    Args:
        folder: where rows are mapped into memory instead of taking memory.
        sampler_name: under which the priorities are kept beside the replay.
        window: how many of each shard's newest rows are held here. Default: all it has.
    """

    def __init__(
        self,
        store: ReplayStore,
        sampling: Sampling,
        *,
        folder: Path | None = None,
        sampler_name: str = SAMPLER,
        window: int | None = None,
    ) -> None:
        paths = [folder / f"shard-{i}" if folder else None for i in range(len(store.shards))]
        rings = [
            Ring(store.schema, window or shard.capacity, path)
            for shard, path in zip(store.shards, paths, strict=True)
        ]
        super().__init__(store.name, store.schema, rings, sampling)
        self._store, self._sampler_name = store, sampler_name
        self._producer: ReplayProducer | None = None
        self._epochs: list[int | None] = [None] * len(rings)
        self._inserted = [0] * len(rings)
        self._echoes = [Echo(store.schema) for _ in rings]
        self._heard_s = [-math.inf] * len(rings)
        self._flush_due: float | None = None
        self._ration = store.limits and Ration(store.name, store.limits, self._sampled)

    @property
    def inserted(self) -> int:
        """Steps ever appended by all, as far as is known here."""
        return sum(self._inserted)

    def append(self, rows: Rows, timeout_s: float | None = None) -> int:
        """Append whole fragments, shape `(n,)`, to the store; see `ReplayProducer.append`.

        They can be sampled after `sync`.
        """
        if self._ration:
            self._report()
        return self._writer().append(rows, timeout_s)

    def append_ahead(self, rows: Rows, timeout_s: float | None = None) -> None:
        """Copy what was appended up to our last chunk, then send this one; see `ReplayProducer`.

        The rows can be sampled after the next call, or after `sync`. Call it again with the same
        rows when it failed.

        Raises:
            as `append` and `sync`, for the chunk before.
        """
        self._settle(timeout_s)
        self._copy(read_all=False)
        self._writer().append_ahead(rows, timeout_s)

    def sync(self) -> int:
        """Copy the rows appended since the last call, once Redis has acknowledged all of ours.

        Returns:
            how many there were.

        Raises:
            ReplayUnavailable: when Redis does not answer; what was copied stays.
            ReplayDataLost: when the replay is gone from Redis.
            DataCorrupted: when rows do not make whole fragments.
        """
        self._settle()
        return self._copy(read_all=True)

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
        """Return once what was appended is acknowledged, and the priorities are as durable.

        Raises:
            ReplayUnavailable: when Redis does not answer; they are sent again next time.
        """
        self._settle()
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
        """Checkpoint and report the samples; the client stays open, for it is the caller's."""
        self.checkpoint()
        self._report()

    def _writer(self) -> ReplayProducer:
        if self._producer is None:
            self._producer = ReplayProducer(self._store, on_append=self._hear)
        return self._producer

    def _settle(self, timeout_s: float | None = None) -> None:
        if self._producer is not None:
            if self._ration:
                self._report()
            self._producer.settle(timeout_s)

    def _report(self) -> None:
        """Say what was sampled, for which a chunk of ours may have to wait."""
        for i, shard in enumerate(self._store.shards):
            if self._sampled[i]:
                self._read(i, shard)

    def _hear(self, answer: Appended, data: bytes) -> None:
        self._echoes[self._writer().shard].hear(answer, data)

    def _copy(self, read_all: bool) -> int:
        """Without `read_all`, what came after our last chunk to a shard may be left."""
        shards = enumerate(self._store.shards)
        copied = sum(self._copy_of(i, shard, read_all) for i, shard in shards)
        if self._prioritized is not None:
            self._keep_priorities()
        return copied

    def _copy_of(self, i: int, shard: ReplayShard, read_all: bool) -> int:
        own = self._echoes[i].take(self._rings[i].head, self._epochs[i])
        if own is None:
            return self._read(i, shard)
        self._write(i, self._rings[i].head, own)
        due = self._ration or time.monotonic() > self._heard_s[i] + REPORT_PERIOD_S
        read = self._read(i, shard) if read_all or due else 0
        return min(len(own), self._rings[i].capacity) + read

    def _read(self, i: int, shard: ReplayShard) -> int:
        ring, copied, most = self._rings[i], 0, ROWS_A_TRIP
        while True:
            tail = shard.tail(ring.head, most, self._sampled[i])
            self._sampled[i], self._heard_s[i] = 0, time.monotonic()
            self._inserted[i] = tail.inserted
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
