"""A named replay on a real Valkey: made, opened again, refused, found, removed."""

from __future__ import annotations

import pytest
import redis
from redis.crc import key_slot
from replay_rig import SCHEMA, make_rows

from services.common.errors import InvalidInput, NotFound, ReplayDataLost
from services.common.replay import Field, Limits, ReplaySchema, ReplayStore, keys, list_replays
from services.common.replay.store import MISSING


def test_a_replay_is_opened_again_with_its_head(client: redis.Redis, name: str) -> None:
    (shard,) = ReplayStore(client, name, SCHEMA, 10).shards
    assert shard.open() == 0
    shard.append("p", 1, SCHEMA.pack(make_rows(1, range(3))))
    (again,) = ReplayStore(client, name, SCHEMA, 10).shards
    assert again.open() == 4


def test_another_schema_is_refused_with_both(client: redis.Redis, name: str) -> None:
    ReplayStore(client, name, SCHEMA, 10)
    other = ReplaySchema((Field("observation", "float32", (2,)),), Field("action", "int32"))
    with pytest.raises(InvalidInput, match=rf"replay {name} holds .* use another name"):
        ReplayStore(client, name, other, 10)


@pytest.mark.parametrize(
    ("there", "capacity", "shards"), [(1, 13, 1), (1, 12, 3), (3, 12, 1), (3, 12, 2)]
)
def test_another_capacity_or_number_of_shards_is_refused(
    client: redis.Redis, name: str, there: int, capacity: int, shards: int
) -> None:
    ReplayStore(client, name, SCHEMA, 12, shards=there)
    expected = rf"12 rows in {there} shards, asked for {capacity} in {shards}; use another name"
    with pytest.raises(InvalidInput, match=expected):
        ReplayStore(client, name, SCHEMA, capacity, shards=shards)
    assert ReplayStore(client, name, SCHEMA, 12, shards=there).capacity == 12


def test_what_is_refused_changes_no_limits(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 12, limits=Limits(2, 8))
    with pytest.raises(InvalidInput):
        ReplayStore(client, name, SCHEMA, 13, limits=Limits(3, 9))
    assert store.shards[0].stats().limits == Limits(2, 8)


def test_data_of_an_earlier_layout_are_refused(client: redis.Redis, name: str) -> None:
    meta = {"schema": '{"version": 1, "fields": []}', "capacity": 10, "head": 0}
    client.hset(f"tutelage:replay:{{{name}}}:meta", mapping=meta)
    with pytest.raises(InvalidInput, match="schema version 1, expected 2"):
        ReplayStore(client, name, SCHEMA, 10)
    with pytest.raises(InvalidInput, match="schema version 1, expected 2"):
        ReplayStore.open_existing(client, name)


@pytest.mark.parametrize("bad", ["", "-x", "a b", "a{b}", "a*", "ä", "a\n", "a:1", "x" * 129])
def test_bad_names_are_refused(client: redis.Redis, bad: str) -> None:
    with pytest.raises(InvalidInput, match="replay name"):
        ReplayStore(client, bad, SCHEMA, 10)
    with pytest.raises(InvalidInput, match="replay name"):
        ReplayStore.open_existing(client, bad)


@pytest.mark.parametrize(("capacity", "shards"), [(0, 1), (2, 3), (2, 0)])
def test_shards_without_a_row_are_refused(
    client: redis.Redis, name: str, capacity: int, shards: int
) -> None:
    with pytest.raises(InvalidInput, match=f"capacity is {capacity} rows in {shards} shards"):
        ReplayStore(client, name, SCHEMA, capacity, shards=shards)


def test_capacity_is_split_evenly(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 11, shards=3)
    assert sorted(shard.capacity for shard in store.shards) == [3, 4, 4]


@pytest.mark.parametrize("replay", ["cart-pole", "pendulum", "x"])
@pytest.mark.parametrize(("shards", "nodes"), [(2, 2), (3, 3), (6, 3), (12, 3), (8, 4)])
def test_every_node_of_a_cluster_gets_as_many_shards(replay: str, shards: int, nodes: int) -> None:
    tags = keys.tags(replay, shards)
    assert tags[0] == replay
    where = [key_slot(tag.encode()) * nodes // 16384 for tag in tags]
    assert [where.count(node) for node in range(nodes)] == [shards // nodes] * nodes


def test_a_replay_is_opened_by_its_name_alone(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 11, shards=2)
    store.shards[1].append("p", 1, SCHEMA.pack(make_rows(1, range(2))))
    found = ReplayStore.open_existing(client, name)
    assert (found.schema, found.capacity, len(found.shards)) == (SCHEMA, 11, 2)
    assert [shard.open() for shard in found.shards] == [0, 3]


def test_a_replay_that_is_not_there_is_not_made_by_looking(client: redis.Redis, name: str) -> None:
    with pytest.raises(NotFound, match=f"no replay {name}"):
        ReplayStore.open_existing(client, name)
    assert name not in list_replays(client)


def test_replays_are_listed_once_however_many_shards(client: redis.Redis, name: str) -> None:
    for suffix, shards in (("b", 3), ("a", 1)):
        ReplayStore(client, f"{name}-{suffix}", SCHEMA, 10, shards=shards)
    assert [n for n in list_replays(client) if n.startswith(name)] == [f"{name}-a", f"{name}-b"]


def test_nothing_is_left_of_a_removed_replay(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 10, shards=2)
    data = SCHEMA.pack(make_rows(1, range(2)))
    for shard in store.shards:
        shard.append("p", 1, data)
        shard.tail(0, 1, sampled=1)
        shard.save_priorities("s", 3, 1.0, [])
    store.remove()
    assert not list(client.scan_iter(f"*{name}*"))
    for shard in store.shards:
        assert shard.append("p", 2, data).status == MISSING
        with pytest.raises(ReplayDataLost, match=f"replay {name} is no longer in Redis"):
            shard.tail(0, 1)
    assert not list(client.scan_iter(f"*{name}*"))


def test_removing_one_replay_leaves_those_with_longer_names(client: redis.Redis, name: str) -> None:
    store, other = (ReplayStore(client, n, SCHEMA, 10) for n in (name, f"{name}.x"))
    other.shards[0].append("p", 1, SCHEMA.pack(make_rows(1, range(2))))
    store.remove()
    assert other.shards[0].tail(0, 10).head == 3


def test_a_bound_in_bytes_is_a_capacity() -> None:
    assert ReplayStore.capacity_for(10 * SCHEMA.row_bytes + 1, SCHEMA) == 10
    with pytest.raises(InvalidInput, match="max_bytes is 3"):
        ReplayStore.capacity_for(3, SCHEMA)
