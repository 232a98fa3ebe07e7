"""The learner's copy: what it copies, what it samples, and how it notices what changed."""

from __future__ import annotations

import numpy as np
import pytest
import redis
from replay_rig import SCHEMA, interleave, make_rows

from services.common.errors import ReplayDataLost
from services.common.replay import ReplayMirror, ReplayProducer, ReplayStore, mirror
from services.common.replay.schema import Rows


def steps_of(copy: ReplayMirror) -> set[int]:
    """Every step that is sampled; 500 draws miss one of 10 rows once in 10²² times."""
    return set(copy.sample(500, np.random.default_rng(0))["step"].tolist())


def test_copies_what_came_since_the_last_time(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 10)
    writer, copy = ReplayProducer(store), ReplayMirror(store)
    assert copy.sync() == 0
    writer.append(make_rows(1, range(3)))
    assert copy.sync() == 3
    writer.append(make_rows(1, range(3, 5)))
    assert copy.sync() == 2
    assert copy.sync() == 0
    assert (copy.head, copy.size) == (5, 5)
    assert steps_of(copy) == set(range(5))


def test_what_the_ring_overwrote_is_no_longer_sampled(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 4)
    writer, copy = ReplayProducer(store), ReplayMirror(store)
    for start in (0, 3):
        writer.append(make_rows(1, range(start, start + 3)))
        copy.sync()
    assert (copy.head, copy.size) == (6, 4)
    assert steps_of(copy) == {2, 3, 4, 5}


def test_a_mirror_that_was_lapped_goes_on_from_what_is_there(
    client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 4)
    writer, copy = ReplayProducer(store), ReplayMirror(store)
    writer.append(make_rows(1, range(3)))
    copy.sync()
    for start in range(3, 15, 3):
        writer.append(make_rows(1, range(start, start + 3)))
    assert copy.sync() == 4
    assert (copy.head, copy.size) == (15, 4)
    assert steps_of(copy) == {11, 12, 13, 14}


def test_a_long_replay_is_copied_in_several_trips(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "ROWS_A_TRIP", 3)
    store = ReplayStore(client, name, SCHEMA, 10)
    ReplayProducer(store).append(make_rows(1, range(8)))
    copy = ReplayMirror(store)
    assert copy.sync() == 8
    assert steps_of(copy) == set(range(8))
    batch = copy.sample_n_step(100, np.random.default_rng(0), n=8, discount=1.0)
    np.testing.assert_array_equal(batch.next_observation[:, 0], 108)


def test_a_replay_with_less_than_it_had_is_copied_anew(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 10)
    copy = ReplayMirror(store)
    ReplayProducer(store).append(make_rows(1, range(6)))
    copy.sync()
    store.remove()
    store.open()
    ReplayProducer(store).append(make_rows(2, range(6, 9)))
    assert copy.sync() == 3
    assert (copy.head, copy.size) == (3, 3)
    assert steps_of(copy) == {6, 7, 8}


def test_a_replay_that_is_gone_is_said(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 10)
    copy = ReplayMirror(store)
    store.remove()
    with pytest.raises(ReplayDataLost, match="no longer in Redis"):
        copy.sync()


def test_nothing_can_be_sampled_from_nothing(client: redis.Redis, name: str) -> None:
    copy = ReplayMirror(ReplayStore(client, name, SCHEMA, 10))
    with pytest.raises(ReplayDataLost, match=f"replay {name} holds no rows"):
        copy.sample(1, np.random.default_rng(0))


def test_rewards_are_relabelled_once_and_only_here(client: redis.Redis, name: str) -> None:
    asked: list[int] = []

    def negate(rows: Rows) -> np.ndarray:
        asked.extend(rows["step"].tolist())
        return -rows["reward"]

    store = ReplayStore(client, name, SCHEMA, 4)
    writer, copy = ReplayProducer(store), ReplayMirror(store, negate)
    for start in (0, 3):
        writer.append(make_rows(1, range(start, start + 3)))
        copy.sync()
    assert asked == list(range(6))
    rows = copy.sample(100, np.random.default_rng(0))
    np.testing.assert_array_equal(rows["reward"], -(rows["step"] + 1.0))
    assert SCHEMA.unpack(store.tail(0, 4)[2])["reward"].tolist() == [3, 4, 5, 6]


def test_the_newest_rows_come_with_the_links_between_them(client: redis.Redis, name: str) -> None:
    # Appended: a0 b0 a1 b1 a2 b2 a3 b3, of which b2 is the last of its episode; a ring of 6.
    store = ReplayStore(client, name, SCHEMA, 6)
    writer, copy = ReplayProducer(store), ReplayMirror(store)
    first, second = make_rows(1, range(4)), make_rows(2, range(3), truncated=2)
    writer.append(interleave(first[:3], second))
    copy.sync()
    writer.append(np.concatenate([first[3:], make_rows(3, [0])]))
    copy.sync()
    window = copy.newest(4)
    assert window.rows["episode_id"].tolist() == [1, 2, 1, 3]
    assert window.rows["step"].tolist() == [2, 2, 3, 0]
    assert window.successor.tolist() == [2, -1, -1, -1]
    assert copy.newest(100).rows["step"].tolist() == [1, 1, 2, 2, 3, 0]
    assert copy.newest(100).successor.tolist() == [2, 3, 4, -1, -1, -1]


def test_the_same_generator_draws_the_same_rows(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    ReplayProducer(store).append(make_rows(1, range(50)))
    copies = ReplayMirror(store), ReplayMirror(store)
    for copy in copies:
        copy.sync()
    one, two = (copy.sample(20, np.random.default_rng(7)) for copy in copies)
    np.testing.assert_array_equal(one, two)
