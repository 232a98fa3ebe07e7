"""Samples per insert within bounds: what is refused, who waits, how long, and the end of it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_rig import SCHEMA, make_rows

from services.common.errors import InvalidConfig, ReplayBackpressure
from services.common.replay import (
    Limits,
    Replay,
    ReplayProducer,
    ReplayStore,
    list_replays,
    open_replay,
)
from services.common.replay.answers import APPENDED, DUPLICATE, WAIT

TWO = SCHEMA.pack(make_rows(1, range(2)))


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ((0, 8, 1), "samples_per_insert is 0, expected more than 0"),
        ((float("nan"), 8, 1), "samples_per_insert is nan"),
        ((1, 8, 0), "min_size is 0, expected at least 1"),
        ((0.5, 1.9, 1), r"error_buffer is 1.9, expected .* = 2"),
        ((4, 7, 1), r"error_buffer is 7, expected .* = 8"),
    ],
)
def test_bounds_in_which_nothing_moves_are_refused(
    bounds: tuple[float, float, int], reason: str
) -> None:
    with pytest.raises(InvalidConfig, match=reason):
        Limits(*bounds)


def test_a_ring_that_never_holds_min_size_steps_is_refused() -> None:
    Limits(1, 100, min_size=99).check(chunk_rows=10, batch_size=10, capacity=100)
    with pytest.raises(InvalidConfig, match="ring of 100 rows never holds as many"):
        Limits(1, 100, min_size=100).check(chunk_rows=10, batch_size=10, capacity=100)
    with pytest.raises(InvalidConfig, match="ring of 50 rows never holds as many"):
        Limits(1, 100, min_size=99).check(chunk_rows=10, batch_size=10, capacity=100, shards=2)


def test_a_buffer_smaller_than_a_chunk_and_a_batch_is_refused_with_the_least() -> None:
    Limits(4, 96, min_size=10).check(chunk_rows=16, batch_size=128, capacity=100)
    with pytest.raises(InvalidConfig, match="wait for each other; expected at least 96"):
        Limits(4, 95, min_size=10).check(chunk_rows=16, batch_size=128, capacity=100)


def test_a_buffer_that_ends_within_the_chunk_that_reaches_min_size_is_refused() -> None:
    Limits(4, 252, min_size=10).check(chunk_rows=64, batch_size=32, capacity=100)
    with pytest.raises(InvalidConfig, match="wait for each other; expected at least 252"):
        Limits(4, 251, min_size=10).check(chunk_rows=64, batch_size=32, capacity=100)


@given(
    chunk=st.integers(1, 8),
    batch=st.integers(1, 8),
    rate=st.sampled_from([0.25, 0.5, 1.0, 3.0]),
    spare=st.floats(0, 2),
    min_size=st.integers(1, 20),
    moves=st.lists(st.booleans(), min_size=20, max_size=60),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_passes_the_check_never_halts(
    chunk: int, batch: int, rate: float, spare: float, min_size: int, moves: list[bool]
) -> None:
    least = max(2, 2 * rate, (chunk * rate + batch) / 2, (chunk - 1) * rate)
    limits = Limits(rate, least + spare, min_size)
    limits.check(chunk, batch, capacity=1000)
    inserted = sampled = 0
    for insert in moves:
        may_insert = (inserted + chunk) * rate - sampled <= limits.most
        may_sample = limits.samples_left(inserted, sampled) >= batch
        assert may_insert or may_sample
        if may_insert and (insert or not may_sample):
            inserted += chunk
        else:
            sampled += batch
        assert inserted < min_size or inserted * rate - sampled >= limits.least


def test_learners_wait_for_the_first_steps_and_then_for_their_share() -> None:
    limits = Limits(2, 10, min_size=20)
    assert limits.samples_left(19, 0) == 0
    assert limits.samples_left(20, 0) == 10
    assert limits.samples_left(20, 10) == 0
    assert limits.samples_left(25, 10) == 10


def test_a_store_whose_ring_is_too_short_for_its_limits_is_refused(
    client: redis.Redis, name: str
) -> None:
    with pytest.raises(InvalidConfig, match="ring of 50 rows never holds"):
        ReplayStore(client, name, SCHEMA, 100, shards=2, limits=Limits(1, 10, min_size=50))


def test_limits_that_come_to_a_halt_are_refused_when_a_replay_is_opened(
    client: redis.Redis, name: str
) -> None:
    def opened(**sizes: int) -> Replay:
        limits, generator = Limits(2, 20), np.random.default_rng(0)
        return open_replay(client, name, SCHEMA, 100, generator=generator, limits=limits, **sizes)

    with pytest.raises(InvalidConfig, match="producers and learner would wait for each other"):
        opened(chunk_rows=4, batch_size=64)
    with pytest.raises(InvalidConfig, match="need chunk_rows and batch_size"):
        opened()
    assert list_replays(client).count(name) == 0  # nothing was made
    assert opened(chunk_rows=4, batch_size=16).size == 0


def test_a_chunk_that_never_fits_is_refused_and_does_not_wait(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100, limits=Limits(2, 8, min_size=1))
    writer = ReplayProducer(store)
    with pytest.raises(InvalidConfig, match="a chunk of 6 steps moves the cursor by 12"):
        writer.append(make_rows(1, range(6)))
    assert writer.append(make_rows(1, range(5))) == 6


def test_producers_wait_and_are_told_how_long_and_by_how_much(
    client: redis.Redis, name: str
) -> None:
    limits = Limits(2, 8, min_size=1)
    (shard,) = ReplayStore(client, name, SCHEMA, 100, limits=limits).shards
    assert [shard.append("p", i, TWO).status for i in (1, 2)] == [APPENDED] * 2  # cursor 8
    told = shard.append("p", 3, TWO)
    assert (told.status, told.head, told.ahead) == (WAIT, 6, 2)
    assert told.wait_ms == 100  # nobody has sampled yet
    assert shard.append("p", 2, TWO).status == DUPLICATE
    assert shard.append("q", 1, TWO).status == WAIT
    shard.tail(0, 0, sampled=1)
    again = shard.append("p", 3, TWO)
    assert (again.status, again.ahead) == (WAIT, 1)
    assert 1 <= again.wait_ms <= 1000
    shard.tail(0, 0, sampled=1)
    assert shard.append("p", 3, TWO)[:3] == (APPENDED, 3, 9)
    assert shard.stats().waits == 3


def test_whoever_opens_with_limits_sets_them_for_all(client: redis.Redis, name: str) -> None:
    (shard,) = ReplayStore(client, name, SCHEMA, 100).shards
    assert shard.append("p", 1, TWO).status == APPENDED
    ReplayStore(client, name, SCHEMA, 100, limits=Limits(1, 2, min_size=1))
    assert shard.append("p", 2, TWO).status == WAIT
    ReplayStore(client, name, SCHEMA, 100)
    assert shard.append("p", 2, TWO).status == WAIT
    ReplayStore(client, name, SCHEMA, 100, limits=Limits(1, 3, min_size=1))
    assert shard.append("p", 2, TWO).status == APPENDED
    assert shard.stats().limits == Limits(1, 3, min_size=1)


def test_a_producer_goes_on_once_a_learner_has_sampled(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 100, limits=Limits(1, 2, min_size=1))
    waits: list[float] = []

    def on_wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            store.shards[0].tail(0, 0, sampled=2)

    writer = ReplayProducer(store, on_wait=on_wait)
    assert writer.append(make_rows(1, range(2))) == 3
    assert writer.append(make_rows(1, range(2, 4))) == 6
    assert len(waits) == 2
    assert all(0.001 <= wait <= 1 for wait in waits)


def test_a_wait_ends_with_an_error_that_says_by_how_much_and_what_to_do(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100, limits=Limits(1, 2, min_size=1))
    writer = ReplayProducer(store)
    writer.append(make_rows(1, range(2)))
    expected = "1 samples ahead of what its limits allow.*sampling shard 0"
    with pytest.raises(ReplayBackpressure, match=expected):
        writer.append(make_rows(1, range(2, 4)), timeout_s=0.01)
    store.shards[0].tail(0, 0, sampled=2)
    assert writer.append(make_rows(1, range(2, 4)), timeout_s=0.01) == 6


def test_producers_and_a_learner_in_step_stay_within_the_bounds(
    client: redis.Redis, name: str
) -> None:
    limits = Limits(2, 20, min_size=10)
    limits.check(chunk_rows=2, batch_size=8, capacity=1000)
    store = ReplayStore(client, name, SCHEMA, 1000, limits=limits)
    writers = [ReplayProducer(store) for _ in range(3)]

    def produce(writer: ReplayProducer) -> None:
        for start in range(0, 40, 2):
            writer.append(make_rows(1, range(start, start + 2)), timeout_s=60)

    threads = [threading.Thread(target=produce, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    shard, fresh, seen = store.shards[0], 0, []
    while any(thread.is_alive() for thread in threads):
        tail = shard.tail(0, 0, sampled=fresh)
        seen.append(tail.inserted * 2 - tail.sampled)
        fresh = 8 if limits.samples_left(tail.inserted, tail.sampled) >= 8 else 0
        if tail.inserted >= limits.min_size:
            assert limits.least <= seen[-1] <= limits.most
    assert max(seen) <= limits.most
    tail = shard.tail(0, 0, sampled=fresh)
    assert tail.inserted == 120
    assert limits.least <= 240 - tail.sampled <= limits.most


@pytest.mark.parametrize("way", ["append", "append_ahead", "server"])
def test_a_learner_that_collects_for_itself_does_not_wait_for_itself(
    client: redis.Redis, name: str, way: str
) -> None:
    replay = open_replay(
        client,
        name,
        SCHEMA,
        100,
        generator=np.random.default_rng(0),
        mode="server" if way == "server" else "mirror",
        limits=Limits(samples_per_insert=1, error_buffer=8, min_size=8),
        chunk_rows=8,
        batch_size=8,
    )
    append = getattr(replay, "append" if way == "server" else way)
    append(make_rows(0, range(8)), timeout_s=0)
    for episode in range(1, 10):
        append(make_rows(episode, range(8)), timeout_s=0)
        replay.sync()
        assert len(replay.sample(8)) == 8
    replay.close()
    stats = ReplayStore.open_existing(client, name).shards[0].stats()
    assert (stats.inserted, stats.sampled, stats.waits) == (80, 72, 0)
