"""A named replay on a real Valkey: made, opened again, refused, removed."""

from __future__ import annotations

import pytest
import redis
from replay_rig import SCHEMA, make_rows

from services.common.errors import InvalidInput, ReplayDataLost
from services.common.replay import Field, ReplaySchema, ReplayStore
from services.common.replay.store import APPENDED, DUPLICATE, GAP, MISSING


def test_a_replay_is_opened_again_with_its_head(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 10)
    assert store.open() == 0
    store.append("p", 1, SCHEMA.pack(make_rows(1, range(3))))
    assert ReplayStore(client, name, SCHEMA, 10).open() == 3


def test_another_schema_is_refused_with_both(client: redis.Redis, name: str) -> None:
    ReplayStore(client, name, SCHEMA, 10)
    other = ReplaySchema((Field("observation", "float32", (2,)),))
    with pytest.raises(InvalidInput, match=rf"replay {name} holds .* use another name"):
        ReplayStore(client, name, other, 10)


def test_another_capacity_is_refused_with_both(client: redis.Redis, name: str) -> None:
    ReplayStore(client, name, SCHEMA, 10)
    with pytest.raises(InvalidInput, match="has a capacity of 10 rows, asked for 11"):
        ReplayStore(client, name, SCHEMA, 11)


def test_a_schema_of_a_later_version_is_refused() -> None:
    with pytest.raises(InvalidInput, match="schema version 2, expected 1"):
        ReplaySchema.from_json('{"version": 2, "fields": []}')


def test_a_schema_survives_json() -> None:
    assert ReplaySchema.from_json(SCHEMA.to_json()) == SCHEMA


@pytest.mark.parametrize("bad", ["", "-x", "a b", "a{b}", "a*", "ä", "a\n", "x" * 129])
def test_bad_names_are_refused(client: redis.Redis, bad: str) -> None:
    with pytest.raises(InvalidInput, match="replay name"):
        ReplayStore(client, bad, SCHEMA, 10)


def test_no_capacity_is_refused(client: redis.Redis, name: str) -> None:
    with pytest.raises(InvalidInput, match="capacity is 0"):
        ReplayStore(client, name, SCHEMA, 0)


def test_rows_of_another_schema_are_not_packed() -> None:
    other = ReplaySchema.transitions((2,), "float32")
    with pytest.raises(InvalidInput, match="the replay's schema is"):
        SCHEMA.pack(other.empty(1))


def test_a_chunk_counts_once_and_in_its_turn(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 10)
    data = SCHEMA.pack(make_rows(1, range(2)))
    assert store.append("p", 2, data) == (GAP, 1, 0)
    assert store.append("p", 1, data) == (APPENDED, 1, 2)
    assert store.append("p", 1, data) == (DUPLICATE, 1, 2)
    assert store.append("q", 1, data) == (APPENDED, 1, 4)
    assert store.append("p", 2, data) == (APPENDED, 2, 6)


def test_a_chunk_longer_than_the_ring_leaves_its_end(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 4)
    store.append("p", 1, SCHEMA.pack(make_rows(1, range(10))))
    head, first, data = store.tail(0, 100)
    assert (head, first) == (10, 6)
    assert SCHEMA.unpack(data)["step"].tolist() == [6, 7, 8, 9]


def test_rows_cross_the_blocks_they_are_kept_in(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes = SCHEMA.dtype.itemsize
    monkeypatch.setattr("services.common.replay.store.BLOCK_BYTES", 3 * row_bytes)
    store = ReplayStore(client, name, SCHEMA, 8)
    for sequence, start in enumerate(range(0, 20, 5), 1):
        store.append("p", sequence, SCHEMA.pack(make_rows(1, range(start, start + 5))))
    assert store.tail(0, 100)[:2] == (20, 12)
    assert SCHEMA.unpack(store.tail(0, 100)[2])["step"].tolist() == list(range(12, 20))
    assert SCHEMA.unpack(store.tail(14, 3)[2])["step"].tolist() == [14, 15, 16]
    # Blocks of 3, 3 and 2 rows make the ring of 8.
    sizes = sorted(client.strlen(key) for key in client.scan_iter(f"*{name}*block*"))
    assert sizes == [2 * row_bytes, 3 * row_bytes, 3 * row_bytes]


def test_nothing_is_left_of_a_removed_replay(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 10)
    data = SCHEMA.pack(make_rows(1, range(2)))
    store.append("p", 1, data)
    store.remove()
    assert not list(client.scan_iter(f"*{name}*"))
    assert store.append("p", 2, data) == (MISSING, 0, 0)
    with pytest.raises(ReplayDataLost, match=f"replay {name} is no longer in Redis"):
        store.tail(0, 1)


def test_removing_one_replay_leaves_those_with_longer_names(client: redis.Redis, name: str) -> None:
    store, other = (ReplayStore(client, n, SCHEMA, 10) for n in (name, f"{name}.x"))
    other.append("p", 1, SCHEMA.pack(make_rows(1, range(2))))
    store.remove()
    assert other.tail(0, 10)[0] == 2
