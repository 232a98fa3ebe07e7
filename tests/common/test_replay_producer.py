"""Exactly once: retries, lost replies, and what Redis forgot, on a real Valkey.

Redis forgetting is played by putting back what it had said some chunks ago.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import redis
from replay_rig import SCHEMA, make_rows

from services.common.errors import InvalidInput, ReplayDataLost, ReplayUnavailable
from services.common.replay import ReplayProducer, ReplayStore, producer

Answer = tuple[int, int, int]


class LosesReplies(ReplayStore):
    """Appends, but says that nobody answered, as often as told to."""

    lost = 0

    def append(self, producer: str, sequence: int, rows: bytes) -> Answer:
        answer = super().append(producer, sequence, rows)
        if self.lost:
            self.lost -= 1
            raise ReplayUnavailable("the reply was lost")
        return answer


def steps_in(store: ReplayStore) -> list[int]:
    """The steps of all rows that are there, oldest first."""
    return SCHEMA.unpack(store.tail(0, 1 << 20)[2])["step"].tolist()


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
    assert [writer.append(make_rows(1, range(i, i + 3))) for i in (0, 3, 6)] == [3, 6, 9]
    assert steps_in(store) == list(range(9))


def test_equal_chunks_in_a_row_each_count(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    for _ in range(3):
        writer.append(make_rows(1, [0]))
    assert steps_in(store) == [0, 0, 0]


def test_a_chunk_whose_reply_was_lost_counts_once(client: redis.Redis, name: str) -> None:
    store = LosesReplies(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    store.lost = 2
    for _ in range(2):
        with pytest.raises(ReplayUnavailable):
            writer.append(make_rows(1, range(3)))
    assert writer.append(make_rows(1, range(3))) == 3
    assert writer.append(make_rows(1, range(3, 5))) == 5
    assert steps_in(store) == list(range(5))


def test_an_open_chunk_must_be_closed_before_the_next(client: redis.Redis, name: str) -> None:
    store = LosesReplies(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    store.lost = 1
    with pytest.raises(ReplayUnavailable):
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
    assert writer.append(make_rows(1, [5])) == 6
    assert steps_in(store) == list(range(6))


def test_a_replay_that_is_gone_is_made_again_from_what_is_kept(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    writer.append(make_rows(1, [0, 1]))
    store.remove()
    assert writer.append(make_rows(1, [2])) == 3
    assert steps_in(store) == [0, 1, 2]


def test_a_replay_that_is_gone_before_the_first_chunk_is_made_again(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    store.remove()
    assert ReplayProducer(store).append(make_rows(1, [0])) == 1


def test_what_is_too_old_to_be_sent_again_is_said_to_be_lost(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 1.0 + producer.KEPT_S, 100.0])  # when each chunk is acknowledged
    monkeypatch.setattr(producer, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    for step in range(3):
        writer.append(make_rows(1, [step]))
    store.remove()
    with pytest.raises(ReplayDataLost, match=r"lost chunks 1 to 3 .* appendonly yes"):
        writer.append(make_rows(1, [3]))


def test_rows_of_another_schema_leave_the_producer_as_it_was(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    writer = ReplayProducer(store)
    with pytest.raises(InvalidInput):
        writer.append(np.zeros(3, np.dtype([("other", "f4")])))
    assert writer.append(make_rows(1, [0])) == 1
