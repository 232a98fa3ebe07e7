"""Exactly once: retries, lost replies, and what Redis forgot, on a real Valkey.

Redis forgetting is played by putting back what it had said some chunks ago.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import redis
from replay_rig import SCHEMA, losing_replies, make_rows, steps_of

from services.common.errors import InvalidInput, ReplayDataLost, ReplayUnavailable
from services.common.replay import ReplayProducer, ReplayStore, producer


def steps_in(store: ReplayStore) -> list[int]:
    """The steps of all step rows that are there, oldest first."""
    rows = SCHEMA.unpack(store.shards[0].tail(0, 1 << 20).data)
    return steps_of(rows)["step"].tolist()


def snapshot(client: redis.Redis, name: str) -> dict[bytes, bytes]:
    """Everything that Redis has of a replay."""
    return {key: client.dump(key) for key in client.scan_iter(f"*{{{name}}}*")}


def put_back(client: redis.Redis, name: str, then: dict[bytes, bytes]) -> None:
    """Make Redis forget what came after a snapshot."""
    for key in list(client.scan_iter(f"*{{{name}}}*")):
        client.delete(key)
    for key, value in then.items():
        client.restore(key, 0, value)


def test_chunks_come_in_order_and_the_head_counts_them(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    assert [writer.append(make_rows(1, range(i, i + 3))) for i in (0, 3, 6)] == [4, 8, 12]
    assert steps_in(store) == list(range(9))


def test_equal_chunks_in_a_row_each_count(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    for _ in range(3):
        writer.append(make_rows(1, [0]))
    assert steps_in(store) == [0, 0, 0]


def test_a_chunk_whose_reply_was_lost_counts_once(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    with losing_replies(store.shards[0], times=2):
        for _ in range(2):
            with pytest.raises(ReplayUnavailable, match="the reply was lost"):
                writer.append(make_rows(1, range(3)))
    assert writer.append(make_rows(1, range(3))) == 4
    assert writer.append(make_rows(1, range(3, 5))) == 7
    assert steps_in(store) == list(range(5))


def test_an_open_chunk_must_be_closed_before_the_next(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    with losing_replies(store.shards[0]), pytest.raises(ReplayUnavailable):
        writer.append(make_rows(1, range(3)))
    with pytest.raises(InvalidInput, match="not acknowledged; append that one again first"):
        writer.append(make_rows(1, range(3, 5)))
    writer.append(make_rows(1, range(3)))


def test_producers_do_not_take_each_others_chunks_for_their_own(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    first, second = ReplayProducer(store), ReplayProducer(store)
    first.append(make_rows(1, [0]))
    second.append(make_rows(1, [0]))
    first.append(make_rows(1, [1]))
    assert steps_in(store) == [0, 0, 1]


def test_chunks_that_redis_forgot_are_sent_again_in_order(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    writer.append(make_rows(1, [0, 1]))
    then = snapshot(client, name)
    writer.append(make_rows(1, [2, 3]))
    writer.append(make_rows(1, [4]))
    put_back(client, name, then)
    assert writer.append(make_rows(1, [5])) == 10
    assert steps_in(store) == list(range(6))


def test_a_replay_that_is_gone_is_made_again_from_what_is_kept(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    writer.append(make_rows(1, [0, 1]))
    store.remove()
    assert writer.append(make_rows(1, [2])) == 5
    assert steps_in(store) == [0, 1, 2]


def test_a_replay_that_is_gone_before_the_first_chunk_is_made_again(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    store.remove()
    assert ReplayProducer(store).append(make_rows(1, [0])) == 2


def test_what_is_too_old_to_be_sent_again_is_said_to_be_lost(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(producer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    for step, now[0] in enumerate([0.0, 1.0, 1.0 + producer.KEPT_S]):
        writer.append(make_rows(1, [step]))
    store.remove()
    with pytest.raises(ReplayDataLost, match=r"lost chunks 1 to 3 .* appendonly yes"):
        writer.append(make_rows(1, [3]))


def test_no_more_is_kept_than_there_is_room_for(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    chunk = make_rows(1, [0])
    writer = ReplayProducer(store, kept_bytes=2 * chunk.nbytes)
    for _ in range(2):
        writer.append(chunk)
    store.remove()
    assert writer.append(chunk) == 6
    store.remove()
    with pytest.raises(ReplayDataLost, match="too many to keep"):
        writer.append(chunk)


def test_producers_spread_over_the_shards_and_each_stays_on_one(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 1000, shards=3)
    writers = [ReplayProducer(store) for _ in range(60)]
    assert {writer.shard for writer in writers} == {0, 1, 2}
    chosen = ReplayProducer(store, shard=1)
    for i in range(3):
        chosen.append(make_rows(1, [i]))
    assert [shard.tail(0, 1).head for shard in store.shards] == [0, 6, 0]


def test_rows_of_another_schema_leave_the_producer_as_it_was(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    with pytest.raises(InvalidInput):
        writer.append(np.zeros(3, np.dtype([("other", "f4")])))
    assert writer.append(make_rows(1, [0])) == 2


def test_after_a_long_silence_numbers_begin_anew(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    writer.append(make_rows(1, range(3)))
    client.hdel(f"{store.shards[0].prefix}meta", f"producer:{writer._id}")  # as after a day
    monkeypatch.setattr(producer, "ANEW_S", -1.0)
    for start in (3, 6):
        with losing_replies(store.shards[0]), pytest.raises(ReplayUnavailable):
            writer.append(make_rows(1, range(start, start + 3)))
        writer.append(make_rows(1, range(start, start + 3)))
    assert steps_in(store) == list(range(9))
