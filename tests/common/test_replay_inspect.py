"""A replay as seen from outside, and the damage that `verify` finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import redis
from replay_rig import SCHEMA, make_rows

from services.common.replay import ReplayProducer, ReplayStore
from services.common.replay import shard as shard_module
from services.common.replay.inspect import Check, describe, verify
from services.common.replay.limiter import Limits
from services.common.replay.schema import CLOSING, Field, ReplaySchema

ROW = SCHEMA.row_bytes


@pytest.fixture
def store(client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch) -> ReplayStore:
    """Ten fragments of nine steps appended to a ring of 64 rows, in blocks of 16, wrapped once."""
    monkeypatch.setattr(shard_module, "BLOCK_BYTES", 16 * ROW)
    store = ReplayStore(client, name, SCHEMA, 64)
    producer = ReplayProducer(store)
    for episode in range(10):
        producer.append(make_rows(episode, range(9)))
    return store


def faults(client: redis.Redis, store: ReplayStore) -> list[str]:
    return [check.fault for check in verify(client, store) if check.fault]


def spoil(client: redis.Redis, store: ReplayStore, number: int, column: str, value: int) -> None:
    """Overwrite a column of a row in Redis."""
    block, offset = divmod(number % store.capacity, 16)
    kind, within = SCHEMA.dtype.fields[column][:2]  # type: ignore[index]
    data = np.array(value, kind).tobytes()
    client.setrange(f"{store.shards[0].prefix}block:{block}", offset * ROW + within, data)


def test_what_is_in_a_replay_is_told(client: redis.Redis, name: str) -> None:
    limits = Limits(samples_per_insert=2, error_buffer=100, min_size=5)
    store = ReplayStore(client, name, SCHEMA, 64, shards=2, limits=limits)
    for shard in range(2):
        ReplayProducer(store, shard).append(make_rows(shard, range(9)))
    store.shards[0].tail(0, 100, sampled=12)
    found = describe(store)
    assert (found.name, found.shards, found.capacity) == (name, 2, 64)
    assert (found.rows, found.appended, found.inserted, found.sampled) == (20, 20, 18, 12)
    assert (found.producers, found.waits, found.limits) == (2, 0, limits)
    assert found.bytes > 64 * ROW
    assert found.oldest_age_s is not None
    assert found.oldest_age_s >= 0


def test_an_empty_replay_is_told_and_sound(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 64)
    assert describe(store).oldest_age_s is None
    assert faults(client, store) == []


def test_a_sound_replay_has_no_fault_and_says_what_was_checked(
    client: redis.Redis, store: ReplayStore
) -> None:
    values = np.ones(64, np.float32)
    store.shards[0].save_priorities("default", 100, 2.0, [(0, values)])
    assert list(verify(client, store)) == [
        Check("settings"),
        Check("blocks: 4, each of up to 16 rows"),
        Check("rows up to 99: 57 steps in whole fragments"),
        Check("priorities of default"),
    ]


@pytest.mark.parametrize(
    ("number", "column", "value", "reason"),
    [
        (77, "kind", 9, "row 77 is of kind 9, unknown"),
        (77, "step", 3, "row 77 is step 3 after step 6"),
        (99, "kind", 0, "row 100 is missing: the last fragment has no end"),
        (85, "terminated", 1, "row 86 goes on with an episode that has ended"),
        (41, "episode_id", 8, "row 41 is of episode 8 within a fragment of episode 4"),
    ],
)
def test_a_damaged_row_is_told_by_its_number(
    client: redis.Redis, store: ReplayStore, number: int, column: str, value: int, reason: str
) -> None:
    spoil(client, store, number, column, value)
    assert faults(client, store) == [reason]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c, p: c.delete(f"{p}block:2"), "block 2 (slots 32 to 47) has 0 bytes"),
        (lambda c, p: c.append(f"{p}block:1", b"x"), "block 1 (slots 16 to 31) has"),
        (lambda c, p: c.hset(f"{p}meta", "row_bytes", 8), "row_bytes is 8, expected"),
        (lambda c, p: c.hset(f"{p}meta", "inserted", 101), "101 steps were inserted in 100 rows"),
    ],
)
def test_damaged_blocks_and_settings_are_told(
    client: redis.Redis,
    store: ReplayStore,
    damage: Callable[[redis.Redis, str], object],
    reason: str,
) -> None:
    damage(client, store.shards[0].prefix)
    (fault,) = faults(client, store)
    assert fault.startswith(reason)


@pytest.mark.parametrize(
    ("head", "maximum", "values", "reason"),
    [
        (101, 1.0, np.ones(64), "they reach to row 101, the replay to 100"),
        (100, float("inf"), np.ones(64), "the priority of new rows is inf"),
        (100, 1.0, np.ones(63), "the block at slot 0 has 252 bytes, expected 256"),
        (100, 1.0, np.arange(64) - 5.0, "slot 0 has priority -5.0"),
        (100, 1.0, np.where(np.arange(64) == 7, np.nan, 1), "slot 7 has priority nan"),
    ],
)
def test_damaged_priorities_are_told(
    client: redis.Redis,
    store: ReplayStore,
    head: int,
    maximum: float,
    values: np.ndarray,
    reason: str,
) -> None:
    block = (0, values.astype(np.float32))
    store.shards[0].save_priorities("default", head, maximum, [block])
    assert faults(client, store) == [reason]


def test_a_replay_that_begins_with_a_closing_row_is_damaged(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 64)
    rows = make_rows(1, range(2))
    store.shards[0].append("someone", 1, SCHEMA.pack(rows[-1:]))
    assert rows["kind"][-1] == CLOSING
    assert faults(client, store) == ["row 0 is a closing row without a step before it"]


def test_frames_larger_than_one_trip_are_checked(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.common.replay import stretches

    monkeypatch.setattr(stretches, "BYTES_A_TRIP", 3 * 5000)
    schema = ReplaySchema((Field("observation", "uint8", (70, 70), stack=4),), SCHEMA.action)
    store = ReplayStore(client, name, schema, 50)
    producer = ReplayProducer(store)
    for first in range(0, 80, 8):
        producer.append(make_rows(1, range(first, first + 8), schema=schema))
    assert faults(client, store) == []
