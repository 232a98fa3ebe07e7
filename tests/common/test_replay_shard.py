"""One ring on a real Valkey: append once, tail, sample by number, priorities, figures."""

from __future__ import annotations

import numpy as np
import pytest
import redis
from replay_rig import SCHEMA, make_rows

from services.common.errors import ReplayDataLost
from services.common.replay import ReplaySchema, ReplayStore
from services.common.replay import shard as shard_module
from services.common.replay.answers import APPENDED, DUPLICATE, GAP, MISSING
from services.common.replay.shard import ReplayShard

THREE = SCHEMA.pack(make_rows(1, range(2)))  # two steps and what they led to


def make_shard(client: redis.Redis, name: str, capacity: int = 100) -> ReplayShard:
    return ReplayStore(client, name, SCHEMA, capacity).shards[0]


def fill(shard: ReplayShard, rows: int, chunk: int = 5) -> None:
    """Rows of which the step is the row's number."""
    every = SCHEMA.empty(rows)
    every["step"] = np.arange(rows)
    for sequence, start in enumerate(range(0, rows, chunk), 1):
        shard.append("filler", sequence, SCHEMA.pack(every[start : start + chunk]))


def steps_in(data: bytes) -> list[int]:
    return SCHEMA.unpack(data)["step"].tolist()


def test_a_chunk_counts_once_and_in_its_turn(client: redis.Redis, name: str) -> None:
    shard = make_shard(client, name)
    assert shard.append("p", 2, THREE)[:3] == (GAP, 1, 0)
    assert shard.append("p", 1, THREE)[:3] == (APPENDED, 1, 3)
    assert shard.append("p", 1, THREE)[:3] == (DUPLICATE, 1, 3)
    assert shard.append("q", 1, THREE)[:3] == (APPENDED, 1, 6)
    assert shard.append("p", 2, THREE)[:3] == (APPENDED, 2, 9)


def test_only_steps_count_as_inserts(client: redis.Redis, name: str) -> None:
    shard = make_shard(client, name)
    shard.append("p", 1, THREE)
    assert shard.tail(0, 1).inserted == 2


def test_a_chunk_longer_than_the_ring_leaves_its_end(client: redis.Redis, name: str) -> None:
    shard = make_shard(client, name, capacity=4)
    fill(shard, 10, chunk=10)
    tail = shard.tail(0, 100)
    assert (tail.head, tail.first) == (10, 6)
    assert steps_in(tail.data) == [6, 7, 8, 9]


def test_rows_cross_the_blocks_they_are_kept_in(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes = SCHEMA.row_bytes
    monkeypatch.setattr("services.common.replay.shard.BLOCK_BYTES", 3 * row_bytes)
    shard = make_shard(client, name, capacity=8)
    fill(shard, 20)
    assert shard.tail(0, 100)[:2] == (20, 12)
    assert steps_in(shard.tail(0, 100).data) == list(range(12, 20))
    assert steps_in(shard.tail(14, 3).data) == [14, 15, 16]
    # Blocks of 3, 3 and 2 rows make the ring of 8.
    sizes = sorted(client.strlen(key) for key in client.scan_iter(f"*{name}*block*"))
    assert sizes == [2 * row_bytes, 3 * row_bytes, 3 * row_bytes]
    for before, after in ((0, 1), (2, 1), (4, 3)):
        numbers = np.arange(12 + before, 20 - after)
        sampled = shard.sample(numbers, before, after)
        wanted = [n + i for n in numbers.tolist() for i in range(-before, after + 1)]
        assert steps_in(sampled.data) == wanted
        assert not len(sampled.missing)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_blocks_take_no_more_memory_than_their_rows(
    client: redis.Redis, name: str, chunk: int
) -> None:
    schema = ReplaySchema.transitions((2000,), "float32")
    (shard,) = ReplayStore(client, name, schema, 1000).shards
    for sequence in range(1, -(-1500 // chunk) + 1):
        shard.append("p", sequence, schema.pack(schema.empty(chunk)))
    stats = shard.stats()
    assert stats.rows == 1000
    assert 1 <= stats.bytes / (1000 * schema.row_bytes) < 1.03


def test_sampling_says_what_is_not_there(client: redis.Redis, name: str) -> None:
    shard = make_shard(client, name, capacity=8)
    fill(shard, 20)
    sampled = shard.sample(np.array([11, 12, 15, 19, 3, 18, 20, 1 << 40]), after=1)
    assert sampled.head == 20
    assert sampled.missing.tolist() == [0, 3, 4, 6, 7]
    pairs = SCHEMA.unpack(sampled.data)["step"].reshape(-1, 2).tolist()
    assert pairs == [[0, 0], [12, 13], [15, 16], [0, 0], [0, 0], [18, 19], [0, 0], [0, 0]]


def test_sampling_an_empty_replay_finds_nothing(client: redis.Redis, name: str) -> None:
    sampled = make_shard(client, name).sample(np.array([0, 5]))
    assert (sampled.head, sampled.missing.tolist()) == (0, [0, 1])


def test_samples_are_counted_once_however_often_reported(client: redis.Redis, name: str) -> None:
    shard = make_shard(client, name)
    other = make_shard(client, name)
    assert shard.tail(0, 1, sampled=5).sampled == 5
    shard._sampled -= 5  # as if the answer had not come
    assert shard.tail(0, 1, sampled=5).sampled == 5
    assert other.tail(0, 1, sampled=2).sampled == 7
    shard._sampled -= 5
    assert shard.tail(0, 1, sampled=9).sampled == 11


def test_samples_that_redis_forgot_are_counted_again(client: redis.Redis, name: str) -> None:
    shard = make_shard(client, name)
    shard.tail(0, 1, sampled=5)
    then = {key: client.dump(key) for key in client.scan_iter(f"*{{{name}}}*")}
    shard.tail(0, 1, sampled=3)
    for key, value in then.items():
        client.restore(key, 0, value, replace=True)
    assert shard.tail(0, 1).sampled == 5
    assert shard.tail(0, 1, sampled=1).sampled == 9


def test_samples_of_a_replay_that_was_are_not_counted_in_the_next(
    client: redis.Redis, name: str
) -> None:
    shard = make_shard(client, name)
    shard.tail(0, 1, sampled=500)
    shard.remove()
    shard.open()
    assert shard.tail(0, 1, sampled=2).sampled == 2


def test_a_replay_made_anew_is_of_another_epoch(client: redis.Redis, name: str) -> None:
    shard = make_shard(client, name)
    before = shard.tail(0, 1)
    assert shard.tail(0, 1).epoch == before.epoch
    shard.remove()
    shard.open()
    after = shard.tail(0, 1)
    assert after.epoch != before.epoch
    assert after.previous_epoch != before.epoch


def test_who_knew_the_replay_before_it_was_made_anew_must_open_it_again(
    client: redis.Redis, name: str
) -> None:
    first = make_shard(client, name)
    first.append("p", 1, THREE)
    first.remove()
    make_shard(client, name, capacity=9)
    assert first.append("p", 2, THREE).status == MISSING


def test_priorities_come_back_as_saved(client: redis.Redis, name: str) -> None:
    shard = make_shard(client, name, capacity=100_000)
    assert shard.load_priorities("s") is None
    first, second = np.arange(65_536, dtype=np.float32), np.ones(100, dtype=np.float32)
    shard.save_priorities("s", 7, 3.5, [(0, first), (65_536, second)])
    shard.save_priorities("s", 9, 4.0, [(65_536, 2 * second)])
    saved = shard.load_priorities("s")
    assert saved is not None
    assert (saved.head, saved.maximum) == (9, 4.0)
    expected = np.concatenate([first, 2 * second, np.zeros(100_000 - 65_636)])
    np.testing.assert_array_equal(saved.priorities, expected)
    assert shard.load_priorities("t") is None


def test_priorities_of_a_replay_that_was_are_nobodys(client: redis.Redis, name: str) -> None:
    shard = make_shard(client, name)
    shard.save_priorities("s", 7, 3.5, [])
    client.delete(shard.prefix + "meta")
    with pytest.raises(ReplayDataLost):
        shard.save_priorities("s", 7, 3.5, [])
    shard.open()
    assert shard.load_priorities("s") is None


def test_the_figures_of_a_shard(client: redis.Redis, name: str) -> None:
    shard = make_shard(client, name)
    empty = shard.stats()
    assert (empty.rows, empty.head, empty.oldest_age_s, empty.rows_per_s) == (0, 0, None, 0)
    for sequence in range(1, 51):
        shard.append("p", sequence, THREE)
    shard.append("q", 1, THREE)
    shard.tail(0, 1, sampled=30)
    stats = shard.stats()
    assert (stats.rows, stats.head, stats.inserted, stats.sampled) == (100, 153, 102, 30)
    assert (stats.producers, stats.waits, stats.limits) == (2, 0, None)
    assert stats.row_bytes == SCHEMA.row_bytes
    assert stats.bytes > 100 * SCHEMA.row_bytes
    assert stats.oldest_age_s is not None
    assert 0 <= stats.oldest_age_s < 300
    assert stats.rows_per_s > 0
    shard.remove()
    with pytest.raises(ReplayDataLost):
        shard.stats()


@pytest.mark.parametrize(("several", "seconds"), [(300, 3600), (100, -1), (300, -1)])
def test_who_has_been_silent_for_long_is_forgotten_where_there_are_many(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch, several: int, seconds: int
) -> None:
    shard = make_shard(client, name)
    for i in range(several):
        shard.append(f"producer-{i}", 1, THREE)
        shard._reader = f"reader-{i}"
        shard.tail(0, 0, sampled=1)
    monkeypatch.setattr(shard_module, "REMEMBERED_S", seconds)
    again = make_shard(client, name)
    expected = 0 if several > 256 and seconds < 0 else several
    meta = client.hkeys(f"{shard.prefix}meta")
    assert sum(field.startswith(b"producer:") for field in meta) == expected
    assert client.hlen(f"{shard.prefix}readers") == expected
    again.tail(0, 0, sampled=1)
    assert again.stats().sampled == several + 1
    assert again.append("producer-0", 2, THREE).status == (APPENDED if expected else GAP)
