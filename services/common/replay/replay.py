"""The one interface of every replay, and the one way to open it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidConfig
from services.common.replay.batch import Batch
from services.common.replay.connection import Client
from services.common.replay.limiter import Limits
from services.common.replay.local import Sampling
from services.common.replay.mirror import MirrorReplay
from services.common.replay.prefetch import Prefetcher
from services.common.replay.relabel import Relabeler
from services.common.replay.ring import Index
from services.common.replay.samplers import UNIFORM, Prioritized, Uniform
from services.common.replay.schema import ReplaySchema, Rows
from services.common.replay.server import ServerReplay
from services.common.replay.store import ReplayStore


class Replay(Protocol):
    """Experience that producers append and learners sample.

    A learner's loop:

        replay.append(builder.take())
        replay.sync()
        batch = replay.sample(256)
        replay.update_priorities(batch.index, errors, batch.shard)
    """

    @property
    def schema(self) -> ReplaySchema:
        """What rows are made of."""
        ...

    @property
    def size(self) -> int:
        """Steps that can be sampled, as of the last `sync`."""
        ...

    def append(self, rows: Rows, timeout_s: float | None = None) -> int:
        """Append whole fragments, as `FragmentBuilder` makes them, once; returns the head."""
        ...

    def sync(self) -> int:
        """Learn of what was appended since the last call; how many rows were copied."""
        ...

    def sample(self, batch_size: int) -> Batch:
        """Transitions drawn with replacement."""
        ...

    def update_priorities(
        self, index: Index, priorities: npt.NDArray[np.floating], shard: Index | None = None
    ) -> None:
        """Set the priorities of sampled rows, such as their TD errors."""
        ...

    def checkpoint(self) -> None:
        """Make what is kept here, the priorities, as durable as the rows are."""
        ...

    def close(self) -> None:
        """Checkpoint and stop. The client is the caller's to close."""
        ...


def open_replay(
    client: Client,
    name: str,
    schema: ReplaySchema,
    capacity: int,
    *,
    generator: np.random.Generator,
    mode: Literal["mirror", "server"] = "mirror",
    sampler: Uniform | Prioritized = UNIFORM,
    n_step: int = 1,
    discount: float = 0.99,
    limits: Limits | None = None,
    chunk_rows: int | None = None,
    batch_size: int | None = None,
    shards: int = 1,
    relabel: Relabeler | None = None,
    folder: Path | None = None,
    prefetch: int = 0,
) -> Replay:
    """Open a replay in Redis, made if it is not there, and learn what it holds.

    Args:
        client: from `connect`.
        capacity: rows of any kind, in all shards.
        generator: draws the samples. With `prefetch` another thread uses it.
        mode: "mirror" copies rows here and samples at the speed of memory; "server" keeps
            nothing here and takes a round trip a batch.
        n_step: most steps a transition looks ahead; its rewards are summed with `discount`.
        limits: of samples per insert, for everybody from now on.
        chunk_rows, batch_size: with limits, the most steps that will be appended and sampled at
            once, so that settings under which all would wait for each other are refused.
        relabel: computes rewards anew when rows are sampled.
        folder: where the mirror's rows are mapped into memory instead of taking memory.
        prefetch: batches made ahead in a thread; worth it for large rows and in server mode.

    Raises:
        InvalidInput: when what is stored is of another schema, capacity or number of shards.
        InvalidConfig: when settings do not go together.
        ReplayUnavailable: when Redis does not answer.
    """
    if limits is not None:
        if chunk_rows is None or batch_size is None:
            raise InvalidConfig("limits need chunk_rows and batch_size, to see whether they fit")
        limits.check(chunk_rows, batch_size, capacity, shards)
    sampling = Sampling(generator, sampler, n_step, discount, relabel)
    store = ReplayStore(client, name, schema, capacity, shards, limits)
    replay: MirrorReplay | ServerReplay
    if mode == "mirror":
        replay = MirrorReplay(store, sampling, folder=folder)
    else:
        replay = ServerReplay(store, sampling)
    replay.sync()
    return PrefetchedReplay(replay, prefetch) if prefetch else replay


class PrefetchedReplay:
    """A replay whose batches are made ahead: each is up to `depth` batches old.

    All calls are to come from one thread; the one that samples takes turns with it.
    """

    def __init__(self, replay: Replay, depth: int) -> None:
        self.schema = replay.schema
        self._replay, self._depth = replay, depth
        self._turn = threading.Lock()
        self._batches: tuple[int, Prefetcher[Batch]] | None = None

    @property
    def size(self) -> int:
        """See `Replay`."""
        return self._replay.size

    def append(self, rows: Rows, timeout_s: float | None = None) -> int:
        """See `Replay`."""
        with self._turn:
            return self._replay.append(rows, timeout_s)

    def sync(self) -> int:
        """See `Replay`."""
        with self._turn:
            return self._replay.sync()

    def sample(self, batch_size: int) -> Batch:
        """See `Replay`; another size than before drops what was made ahead."""
        if self._batches is None or self._batches[0] != batch_size:
            self._stop()
            self._batches = batch_size, Prefetcher(lambda: self._make(batch_size), self._depth)
        return self._batches[1].take()

    def update_priorities(
        self, index: Index, priorities: npt.NDArray[np.floating], shard: Index | None = None
    ) -> None:
        """See `Replay`."""
        with self._turn:
            self._replay.update_priorities(index, priorities, shard)

    def checkpoint(self) -> None:
        """See `Replay`."""
        with self._turn:
            self._replay.checkpoint()

    def close(self) -> None:
        """See `Replay`."""
        self._stop()
        self._replay.close()

    def _make(self, batch_size: int) -> Batch:
        with self._turn:
            return self._replay.sample(batch_size)

    def _stop(self) -> None:
        if self._batches is not None:
            self._batches[1].close()
            self._batches = None
