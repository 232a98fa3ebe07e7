"""What the replay's benchmark measures of this project's own replay."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from replay_rows import CARTPOLE, FRAMES, Stream

from services.common.replay import (
    Prioritized,
    ReplayProducer,
    ReplaySchema,
    ReplayStore,
    connect,
    open_replay,
)
from services.common.replay.schema import STEP

CAPACITY = 100_000
MILLION = 1_000_000
FRAME_BYTES = 84 * 84
FRAME_CAPACITY = 20_000
FRAME_STEPS = 512  # of a chunk: 64 in each of 8 lanes
BATCH = 256
# As little as a script can do to gather rows one by one and return them as one string.
BARE_GATHER = """
local bytes, rows = tonumber(ARGV[1]), {}
for i = 1, tonumber(ARGV[2]) do
  local at = (i * 389) % 99000 * bytes
  rows[i] = redis.call('GETRANGE', KEYS[1], at, at + 2 * bytes - 1)
end
return table.concat(rows)
"""


class Ours:
    """Replays that are filled once, and measured again and again.

    measures: by the figure's name, what takes it once.
    """

    def __init__(self, url: str) -> None:
        self._client = connect(url)
        self._append()
        self._uniform()
        self._prioritised()
        self._server()
        self._million()
        self._frames()
        self._references()

    @property
    def references(self) -> dict[str, Callable[[], float]]:
        """What ours stands on, alone: the least that its figures can be."""
        return {
            "fancy_index_256_us": lambda: _us(self._fancy_index, 2000),
            "bare_gather_256_us": lambda: _us(self._bare_gather, 200),
            "bare_setrange_1024_rows_per_s": lambda: 1024e6 / _us(self._bare_setrange, 400),
            "ping_us": lambda: _us(self._client.ping, 1000),
        }

    @property
    def measures(self) -> dict[str, Callable[[], float]]:
        """Everything in the order in which it is measured."""
        return {
            "append_1024_rows_per_s": lambda: self._append_rate(1024, 200),
            "append_64_rows_per_s": lambda: self._append_rate(64, 1000),
            "sample_256_us": lambda: _us(lambda: _read(self._mirror.sample(BATCH)), 2000),
            "sample_prioritised_256_us": lambda: _us(self._sample_and_update, 1000),
            "sample_server_256_us": lambda: _us(lambda: _read(self._remote.sample(BATCH)), 200),
            "rebuild_1m_s": self._rebuild,
            "frames_bytes_ratio": self._frames_ratio,
            "frames_batches_per_s": lambda: (
                1e6 / _us(lambda: _read(self._frame_mirror.sample(32)), 200)
            ),
        }

    def close(self) -> None:
        """Let go of the server."""
        for replay in (self._mirror, self._prioritized, self._remote, self._frame_mirror):
            replay.close()
        self._client.close()

    def _references(self) -> None:
        self._plain = CARTPOLE.empty(CAPACITY)
        self._generator = np.random.default_rng(0)
        self._client.set("bare", bytes(CAPACITY * CARTPOLE.row_bytes))
        self._gather = self._client.register_script(BARE_GATHER)

    def _fancy_index(self) -> None:
        self._plain[self._generator.integers(CAPACITY, size=BATCH)]

    def _bare_gather(self) -> None:
        self._gather(keys=["bare"], args=[CARTPOLE.row_bytes, BATCH])

    def _bare_setrange(self) -> None:
        self._client.setrange("bare", 0, self._plain[:1024].tobytes())

    def _append(self) -> None:
        store = ReplayStore(self._client, "append", CARTPOLE, CAPACITY)
        self._producer = ReplayProducer(store)
        stream = Stream(CARTPOLE, lanes=8, episode_length=200)
        self._chunks = {steps: [stream.chunk(steps) for _ in range(8)] for steps in (1024, 64)}

    def _append_rate(self, steps: int, times: int) -> float:
        chunks = self._chunks[steps]
        started = time.perf_counter()
        for i in range(times):
            self._producer.append(chunks[i % len(chunks)])
        return steps * times / (time.perf_counter() - started)

    def _uniform(self) -> None:
        self._fill("uniform", CARTPOLE, CAPACITY, 1024)
        self._mirror = self._open("uniform", CARTPOLE, CAPACITY)
        _check(self._mirror.sample(BATCH))

    def _prioritised(self) -> None:
        sampler = Prioritized(alpha=0.6, beta=0.4)
        self._prioritized = self._open("uniform", CARTPOLE, CAPACITY, sampler=sampler)
        self._priorities = np.random.default_rng(0).random(BATCH)

    def _sample_and_update(self) -> None:
        batch = self._prioritized.sample(BATCH)
        _read(batch)
        self._prioritized.update_priorities(batch.index, self._priorities)

    def _server(self) -> None:
        self._remote = self._open("uniform", CARTPOLE, CAPACITY, mode="server")
        _check(self._remote.sample(BATCH))

    def _million(self) -> None:
        self._fill("million", CARTPOLE, MILLION, 8192)

    def _rebuild(self) -> float:
        started = time.perf_counter()
        replay = self._open("million", CARTPOLE, MILLION)
        elapsed = time.perf_counter() - started
        assert replay.size > 0.98 * MILLION, replay.size  # the rest are closing rows
        replay.close()
        return elapsed

    def _frames(self) -> None:
        self._step_share = self._fill("frames", FRAMES, FRAME_CAPACITY, FRAME_STEPS)
        self._frame_mirror = self._open("frames", FRAMES, FRAME_CAPACITY)
        batch = self._frame_mirror.sample(32)
        assert batch.observation.shape == batch.next_observation.shape == (32, 4, 84, 84)

    def _frames_ratio(self) -> float:
        store = ReplayStore.open_existing(self._client, "frames")
        stored = sum(shard.stats().bytes for shard in store.shards)
        return stored / (FRAME_CAPACITY * self._step_share) / FRAME_BYTES

    def _open(self, name: str, schema: ReplaySchema, capacity: int, **options: Any) -> Any:
        generator = np.random.default_rng(0)
        replay = open_replay(self._client, name, schema, capacity, generator=generator, **options)
        replay.sync()
        return replay

    def _fill(self, name: str, schema: ReplaySchema, capacity: int, steps: int) -> float:
        """Append until the ring is full and a little more; returns the share of steps in it."""
        producer = ReplayProducer(ReplayStore(self._client, name, schema, capacity))
        stream = Stream(schema, lanes=8, episode_length=200)
        rows = made = 0
        while rows < 1.05 * capacity:
            chunk = stream.chunk(steps)
            producer.append(chunk)
            rows += len(chunk)
            made += int((chunk["kind"] == STEP).sum())
        return made / rows


def _read(batch: Any) -> None:
    """Ask for what a learner asks for; arrays are made only then."""
    for name in ("observation", "action", "reward", "next_observation", "terminated", "weights"):
        getattr(batch, name)


def _check(batch: Any) -> None:
    """A step's next state is the one after it: its first element counts."""
    before, after = batch.observation[:, 0], batch.next_observation[:, 0]
    assert len(before) == BATCH
    assert np.array_equal((before + 1) % 256, after)


def _us(call: Callable[[], Any], times: int) -> float:
    """Microseconds a call, on average."""
    started = time.perf_counter()
    for _ in range(times):
        call()
    return 1e6 * (time.perf_counter() - started) / times
