"""Sampling on the server: nothing is kept here, and a batch is one round trip."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidConfig, ReplayDataLost
from services.common.replay.answers import Asking
from services.common.replay.batch import Batch, Floats, SequenceBatch, Transitions, joined
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


@dataclass(frozen=True)
class _Asked:
    """Rows of a shard that were asked for, each with those about it, `width` in all."""

    shard: int
    numbers: Index
    width: int
    answer: Asking


class ServerReplay:
    """Draws row numbers here and fetches the rows; for many learners, or little memory.

    While a learner is busy with one batch, Redis gathers the next: each was drawn when the one
    before was taken.

    A transition over n steps ends where its fragment does, and the value of the state reached
    stands for the rest; so do the newest n rows wait for those to come. Sequences end there too:
    append chunks that are longer. Not for several threads.

    Raises:
        InvalidConfig: for a prioritised sampler, which needs a mirror.
    """

    def __init__(self, store: ReplayStore, sampling: Sampling) -> None:
        if not isinstance(sampling.sampler, Uniform):
            raise InvalidConfig("server mode samples uniformly; priorities need mode='mirror'")
        self.name, self.schema = store.name, store.schema
        self._store, self._sampling = store, sampling
        self._before = store.schema.history
        count = len(store.shards)
        self._heads, self._sampled = [0] * count, [0] * count
        self._inserted = [0] * count
        self._share = 0.5  # of rows that are steps
        self._synced_at = -np.inf
        self._producer: ReplayProducer | None = None
        self._ration = store.limits and Ration(store.name, store.limits, self._sampled)
        self._ahead: tuple[tuple[int, int], list[_Asked]] | None = None

    @property
    def size(self) -> int:
        """Steps in the replay as of the last `sync`, to within how rows differ in kind."""
        parts = zip(self._inserted, self._heads, self._store.shards, strict=True)
        return sum(i * min(h, s.capacity) // h for i, h, s in parts if h)

    def append(self, rows: Rows, timeout_s: float | None = None) -> int:
        """Append whole fragments, shape `(n,)`; see `ReplayProducer.append`."""
        if self._producer is None:
            self._producer = ReplayProducer(self._store)
        if self._ration:
            self.sync()  # what was sampled, for which this chunk may have to wait
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
        drawn, rows = self._rows(batch_size, self._sampling.n_step)
        return self._batch(drawn, rows)

    def sample_sequences(self, batch_size: int, length: int, burn_in: int = 0) -> SequenceBatch:
        """Stretches of `burn_in + length` steps, from drawn first steps on; see `LocalReplay`."""
        total = burn_in + length
        drawn, rows = self._rows(batch_size, total)
        mask = self._going(rows, total)
        steps = np.minimum(np.arange(total), mask.sum(axis=1)[:, None] - 1)  # (B, L)
        windows = _windows_from(rows, steps, self._before + 2)
        reward = self._reward(windows)
        discount = np.float32(self._sampling.discount) * ~windows["terminated"][:, -2]
        return SequenceBatch(self.schema, windows, reward, drawn, discount, mask, burn_in)

    def update_priorities(
        self, index: Index, priorities: npt.NDArray[np.floating], shard: Index | None = None
    ) -> None:
        """Uniform samples take no notice of priorities."""

    def checkpoint(self) -> None:
        """Nothing is kept here."""

    def close(self) -> None:
        """Report what was sampled; the client stays open, for it is the caller's."""
        self._take_ahead((0, 0))
        self.sync()

    def _rows(self, batch_size: int, after: int) -> tuple[list[Drawn], Rows]:
        """Steps with `history` rows before each and `after` behind: (B, history + 1 + after)."""
        if self._synced_at + SYNC_PERIOD_S < time.monotonic():
            self.sync()
        if self._ration:
            self._ration.wait(batch_size, self.sync)
        asked = self._take_ahead((batch_size, after)) or self._ask(batch_size, after)
        self._ahead = (batch_size, after), self._ask(batch_size, after)
        parts = self._fetch(asked, batch_size)
        for _ in range(MOST_TRIPS):
            missing = batch_size - sum([len(windows) for _, windows in parts])
            if not missing:
                break
            parts += self._fetch(self._ask(missing, after), missing)
        else:
            raise self._empty()
        for drawn, windows in parts:
            self._sampled[drawn.shard] += len(windows)
        return [d for d, _ in parts], joined([w for _, w in parts])

    def _take_ahead(self, wanted: tuple[int, int]) -> list[_Asked] | None:
        """What was asked for ahead, if it is of the batch size and number of rows wanted."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] == wanted:
            return ahead and ahead[1]
        for asked in ahead[1]:
            asked.answer.drop()
        return None

    def _ask(self, wanted: int, after: int) -> list[_Asked]:
        """Ask for uniformly drawn rows, enough that `wanted` steps are among them."""
        lows = [self._low(i) for i in range(len(self._heads))]
        counts = [max(0, h - after - low) for h, low in zip(self._heads, lows, strict=True)]
        total = sum(counts)
        if not total:
            raise self._empty()
        spread = 4 * math.sqrt(wanted * (1 - self._share))
        more = int((wanted + spread) / self._share) + 1
        drawn = (self._sampling.generator.random(more) * total).astype(np.int64)
        asked, first = [], 0
        for i, (count, low) in enumerate(zip(counts, lows, strict=True)):
            own = drawn if count == total else drawn[(drawn >= first) & (drawn < first + count)]
            if len(own):
                numbers = own + (low - first)
                answer = self._store.shards[i].begin_sample(numbers, self._before, after)
                asked.append(_Asked(i, numbers, self._before + 1 + after, answer))
            first += count
        return asked

    def _fetch(self, asked: list[_Asked], wanted: int) -> list[tuple[Drawn, Rows]]:
        """At most `wanted` steps: of the rows asked for, those that are none are left."""
        found, kept = [], 0
        for one in asked:
            windows, there = self._windows(one)
            kept += len(windows)
            found.append((Drawn(one.shard, one.numbers[there]), windows))
        seen = sum([len(one.numbers) for one in asked])
        self._share = max(FEWEST, 0.9 * self._share + 0.1 * kept / seen)
        if kept <= wanted:
            return found
        return _first(found, wanted, self._sampling.generator)

    def _empty(self) -> ReplayDataLost:
        return ReplayDataLost(f"replay {self.name} holds no rows to sample")

    def _low(self, i: int) -> int:
        return max(0, self._heads[i] - self._store.shards[i].capacity) + self._before

    def _windows(self, asked: _Asked) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """The steps among rows, each with those about it, (m, width); and which they are."""
        sampled = asked.answer.land()
        self._heads[asked.shard] = max(self._heads[asked.shard], sampled.head)
        rows = np.frombuffer(sampled.data, dtype=f"V{self.schema.row_bytes * asked.width}")
        kinds = self.schema.unpack(sampled.data)["kind"].reshape(-1, asked.width)
        there = kinds[:, self._before] == STEP
        there[sampled.missing] = False
        return rows[there].view(self.schema.dtype).reshape(-1, asked.width), there

    def _going(self, rows: Rows, steps: int) -> npt.NDArray[np.bool_]:
        """(B, steps) False from where the fragment ends."""
        going = rows["kind"][:, self._before : self._before + steps] == STEP
        return np.logical_and.accumulate(going, axis=1)

    def _batch(self, drawn: list[Drawn], rows: Rows) -> Batch:
        own, gamma = self._before, np.float32(self._sampling.discount)
        first = rows[:, : own + 2]
        reward = self._reward(first)
        if self._sampling.n_step == 1:
            discount = gamma * ~first["terminated"][:, -2]
            return Batch(self.schema, first, None, reward, drawn, discount)
        going = self._going(rows, self._sampling.n_step)
        factor: Floats = np.ones(len(rows), dtype=np.float32)
        for k in range(1, self._sampling.n_step):
            factor *= np.where(going[:, k], gamma, np.float32(1))
            earned = self._reward(rows[:, k : k + own + 2])
            reward = reward + np.where(going[:, k], factor * earned, 0).astype(np.float32)
        reached = _windows_from(rows, going.sum(axis=1)[:, None] - 1, own + 2)
        factor *= np.where(reached["terminated"][:, -2], np.float32(0), gamma)
        return Batch(self.schema, first, reached, reward, drawn, factor)

    def _reward(self, windows: Rows) -> Floats:
        if self._sampling.relabel is None:
            stored: Floats = windows["reward"][:, -2]
            return stored
        return self._sampling.relabel.rewards(Transitions(self.schema, windows.copy()))


def _windows_from(rows: Rows, starts: Index, width: int) -> Rows:
    """`width` rows of each (B, W) from `starts` (B, L) on: (B · L, width)."""
    raw = rows.view(f"V{rows.dtype.itemsize}").ravel()
    begins = np.arange(len(rows))[:, None] * rows.shape[1] + starts
    windows: Rows = raw[begins.reshape(-1, 1) + np.arange(width)].view(rows.dtype)
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
