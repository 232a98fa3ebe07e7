"""Sampling on the server: nothing is kept here, and a batch is one round trip."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidConfig, ReplayDataLost
from services.common.replay.batch import Batch, Floats, Transitions, joined
from services.common.replay.local import Sampling
from services.common.replay.producer import ReplayProducer
from services.common.replay.ration import Ration
from services.common.replay.ring import Index
from services.common.replay.samplers import Drawn, Uniform
from services.common.replay.schema import STEP, Rows
from services.common.replay.store import ReplayStore

SYNC_PERIOD_S = 0.25
FEWEST = 0.05
MOST_TRIPS = 100


class ServerReplay:
    """Draws row numbers here and fetches the rows; for many learners, or little memory.

    A transition over n steps ends where its fragment does, and the value of the state reached
    stands for the rest; so do the newest n rows wait for those to come. Not for several threads.

    Raises:
        InvalidConfig: for a prioritised sampler, which needs a mirror.
    """

    def __init__(self, store: ReplayStore, sampling: Sampling) -> None:
        if not isinstance(sampling.sampler, Uniform):
            raise InvalidConfig("server mode samples uniformly; priorities need mode='mirror'")
        self.name, self.schema = store.name, store.schema
        self._store, self._sampling = store, sampling
        self._before, self._after = store.schema.history, sampling.n_step
        count = len(store.shards)
        self._heads, self._sampled = [0] * count, [0] * count
        self._inserted = [0] * count
        self._share = 0.5  # of rows that are steps
        self._synced_at = -np.inf
        self._producer: ReplayProducer | None = None
        self._ration = store.limits and Ration(store.name, store.limits, self._sampled)

    @property
    def size(self) -> int:
        """Steps in the replay as of the last `sync`, to within how rows differ in kind."""
        parts = zip(self._inserted, self._heads, self._store.shards, strict=True)
        return sum(i * min(h, s.capacity) // h for i, h, s in parts if h)

    def append(self, rows: Rows, timeout_s: float | None = None) -> int:
        """Append whole fragments, shape `(n,)`; see `ReplayProducer.append`."""
        if self._producer is None:
            self._producer = ReplayProducer(self._store)
        return self._producer.append(rows, timeout_s)

    def sync(self) -> int:
        """Ask how many rows there are and say how many were sampled; 0, for none are copied.

        Raises:
            ReplayUnavailable: when Redis does not answer.
            ReplayDataLost: when the replay is gone from Redis.
        """
        for i, shard in enumerate(self._store.shards):
            tail = shard.tail(self._heads[i], 0, self._sampled[i])
            self._sampled[i] = 0
            self._heads[i], self._inserted[i] = tail.head, tail.inserted
            if self._ration:
                self._ration.heard(i, tail)
        self._synced_at = time.monotonic()
        return 0

    def sample(self, batch_size: int) -> Batch:
        """Transitions drawn with replacement; one round trip, and one a shard where there are more.

        Raises:
            ReplayDataLost: when there is no row.
            ReplayUnavailable: when Redis does not answer, or the limits do not allow a batch.
        """
        if self._synced_at + SYNC_PERIOD_S < time.monotonic():
            self.sync()
        if self._ration:
            self._ration.wait(batch_size, self.sync)
        parts: list[tuple[Drawn, Rows]] = []
        missing = batch_size
        for _ in range(MOST_TRIPS):
            parts += self._fetch(missing)
            missing = batch_size - sum([len(windows) for _, windows in parts])
            if not missing:
                break
        else:
            raise self._empty()
        for drawn, windows in parts:
            self._sampled[drawn.shard] += len(windows)
        return self._batch([d for d, _ in parts], joined([w for _, w in parts]))

    def update_priorities(
        self, index: Index, priorities: npt.NDArray[np.floating], shard: Index | None = None
    ) -> None:
        """Uniform samples take no notice of priorities."""

    def checkpoint(self) -> None:
        """Nothing is kept here."""

    def close(self) -> None:
        """Report what was sampled; the client stays open, for it is the caller's."""
        self.sync()

    def _fetch(self, wanted: int) -> list[tuple[Drawn, Rows]]:
        """At most `wanted` steps: uniformly drawn rows, of which those that are none are left."""
        generator = self._sampling.generator
        lows = [self._low(i) for i in range(len(self._heads))]
        counts = np.maximum(np.array(self._heads) - self._after - np.array(lows), 0)
        if not counts.sum():
            raise self._empty()
        spread = 4 * np.sqrt(wanted * (1 - self._share))
        drawn = (generator.random(int((wanted + spread) / self._share) + 1) * counts.sum()).astype(
            np.int64
        )
        ends = np.cumsum(counts)
        shards = np.searchsorted(ends, drawn, side="right")
        found, kept = [], 0
        for i in np.flatnonzero(np.bincount(shards)).tolist():
            numbers = drawn[shards == i] - (ends[i] - counts[i]) + lows[i]
            windows, there = self._windows(i, numbers)
            kept += len(windows)
            found.append((Drawn(i, numbers[there]), windows))
        seen = len(drawn)
        self._share = max(FEWEST, 0.9 * self._share + 0.1 * kept / seen)
        if kept <= wanted:
            return found
        return _first(found, wanted, generator)

    def _empty(self) -> ReplayDataLost:
        return ReplayDataLost(f"replay {self.name} holds no rows to sample")

    def _low(self, i: int) -> int:
        return max(0, self._heads[i] - self._store.shards[i].capacity) + self._before

    def _windows(self, i: int, numbers: Index) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """The steps among rows, each with those about it, (m, width); and which they are."""
        shard, width = self._store.shards[i], self._before + 1 + self._after
        sampled = shard.sample(numbers, self._before, self._after)
        self._heads[i] = max(self._heads[i], sampled.head)
        rows = np.frombuffer(sampled.data, dtype=f"V{self.schema.row_bytes * width}")
        kinds = self.schema.unpack(sampled.data)["kind"].reshape(-1, width)
        there = kinds[:, self._before] == STEP
        there[sampled.missing] = False
        return rows[there].view(self.schema.dtype).reshape(-1, width), there

    def _batch(self, drawn: list[Drawn], rows: Rows) -> Batch:
        own, gamma = self._before, np.float32(self._sampling.discount)
        first = rows[:, : own + 2]
        reward = self._reward(first)
        if self._sampling.n_step == 1:
            discount = gamma * ~first["terminated"][:, -2]
            return Batch(self.schema, first, None, reward, drawn, discount)
        going = rows["kind"][:, own : own + self._sampling.n_step] == STEP
        going = np.logical_and.accumulate(going, axis=1)  # until the fragment ends
        factor: Floats = np.ones(len(rows), dtype=np.float32)
        for k in range(1, self._sampling.n_step):
            factor *= np.where(going[:, k], gamma, np.float32(1))
            earned = self._reward(rows[:, k : k + own + 2])
            reward = reward + np.where(going[:, k], factor * earned, 0).astype(np.float32)
        reached = _windows_from(rows, going.sum(axis=1) - 1, own + 2)
        factor *= np.where(reached["terminated"][:, -2], np.float32(0), gamma)
        return Batch(self.schema, first, reached, reward, drawn, factor)

    def _reward(self, windows: Rows) -> Floats:
        if self._sampling.relabel is None:
            stored: Floats = windows["reward"][:, -2]
            return stored
        return self._sampling.relabel.rewards(Transitions(self.schema, windows.copy()))


def _windows_from(rows: Rows, starts: Index, width: int) -> Rows:
    """`width` rows of each (B, W) from `starts` (B,) on."""
    raw = rows.view(f"V{rows.dtype.itemsize}").ravel()
    where = np.arange(len(rows))[:, None] * rows.shape[1] + starts[:, None] + np.arange(width)
    windows: Rows = raw[where].view(rows.dtype)
    return windows


def _first(
    found: list[tuple[Drawn, Rows]], wanted: int, generator: np.random.Generator
) -> list[tuple[Drawn, Rows]]:
    """As many as wanted of them all, each as likely as any."""
    if len(found) == 1:
        drawn, windows = found[0]
        return [(Drawn(drawn.shard, drawn.numbers[:wanted]), windows[:wanted])]
    counts = [len(windows) for _, windows in found]
    takes = generator.multivariate_hypergeometric(counts, wanted).tolist()
    return [
        (Drawn(drawn.shard, drawn.numbers[:take]), windows[:take])
        for (drawn, windows), take in zip(found, takes, strict=True)
    ]
