"""A mirror that goes back to where it was, with the replay behind it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import redis
from replay_rig import SCHEMA, make_rows

from services.common.errors import PreconditionFailed, ReplayDataLost
from services.common.replay import (
    ExactMirror,
    MirrorReplay,
    Prioritized,
    ReplayProducer,
    ReplayStore,
    Sampling,
)

WINDOW, ROOM = 60, 40
Arrays = dict[str, np.ndarray[Any, Any]]


def exact(client: redis.Redis, name: str, seed: int = 0, **options: Any) -> ExactMirror:
    sampling = Sampling(np.random.default_rng(seed), Prioritized(), **options)
    return ExactMirror(ReplayStore(client, name, SCHEMA, WINDOW + ROOM), sampling, WINDOW)


def append(copy: ExactMirror, first: int, end: int) -> None:
    """Steps of one long episode, in fragments of 3."""
    for start in range(first, end, 3):
        copy.append(make_rows(1, range(start, min(start + 3, end))))
        copy.sync()


def learn(copy: ExactMirror, times: int) -> list[Arrays]:
    """Draw batches, and give what was drawn priorities that depend on it."""
    drawn = []
    for _ in range(times):
        batch = copy.sample(8)
        copy.update_priorities(batch.index, batch.reward / 7 + 0.1, batch.shard)
        kept = {name: getattr(batch, name) for name in ("index", "reward", "discount", "weights")}
        drawn.append(kept | {"reached": batch.next_observation})
    return drawn


def assert_same(one: list[Arrays], two: list[Arrays]) -> None:
    for mine, its in zip(one, two, strict=True):
        for name, array in mine.items():
            assert array.tobytes() == its[name].tobytes(), name


@pytest.mark.parametrize("n_step", [1, 3])
def test_what_is_drawn_after_going_back_is_what_was_drawn(
    client: redis.Redis, name: str, n_step: int
) -> None:
    copy = exact(client, name, n_step=n_step)
    append(copy, 0, 75)  # 100 rows: the ring has lost its first
    learn(copy, 5)
    snapshot = copy.snapshot()
    generator = copy._sampling.generator.bit_generator.state
    append(copy, 75, 105)  # as many as there is room for
    expected = learn(copy, 5)

    again = exact(client, name, seed=9, n_step=n_step)
    again.go_back(snapshot)
    assert (again.head, again.size) == (100, WINDOW * 3 // 4)
    again._sampling.generator.bit_generator.state = generator
    append(again, 75, 105)
    assert_same(learn(again, 5), expected)
    at, its = again.snapshot()["0.at"], copy.snapshot()["0.at"]
    assert at[:3].tolist() == its[:3].tolist()  # of those sampled, the first two told both


def test_counts_go_back_too(client: redis.Redis, name: str) -> None:
    copy = exact(client, name)
    append(copy, 0, 30)
    learn(copy, 2)
    snapshot = copy.snapshot()
    append(copy, 30, 45)
    learn(copy, 3)
    copy.close()
    again = exact(client, name)
    again.go_back(snapshot)
    stats = again._store.shards[0].stats()
    assert (stats.head, stats.inserted, stats.sampled) == (40, 30, 16)
    assert (stats.behind, stats.producers) == (0, 0)


def test_with_nothing_to_go_back_to_it_begins_empty(client: redis.Redis, name: str) -> None:
    append(exact(client, name), 0, 30)
    again = exact(client, name)
    again.go_back(None)
    assert (again.head, again.size) == (0, 0)
    append(again, 0, 6)
    assert again.size == 6


def test_others_see_that_rows_were_taken_back(client: redis.Redis, name: str) -> None:
    copy = exact(client, name)
    append(copy, 0, 30)
    snapshot = copy.snapshot()
    append(copy, 30, 45)
    other = MirrorReplay(copy._store, Sampling(np.random.default_rng(0)))
    other.sync()
    assert other.size == 45
    again = exact(client, name)
    again.go_back(snapshot)
    append(again, 30, 33)
    other.sync()
    assert other.size == 33


def test_a_chunk_that_was_still_under_way_comes_to_nothing(client: redis.Redis, name: str) -> None:
    copy = exact(client, name)
    append(copy, 0, 30)
    snapshot = copy.snapshot()
    again = exact(client, name)
    again.go_back(snapshot)
    shard = copy._store.shards[0]
    late = shard.append(copy._writer()._id, 11, SCHEMA.pack(make_rows(1, range(30, 33))))
    assert late.head == 40
    assert again._store.shards[0].stats().head == 40


def test_rows_that_are_gone_are_said_to_be(client: redis.Redis, name: str) -> None:
    copy = exact(client, name)
    append(copy, 0, 60)
    snapshot = copy.snapshot()
    append(copy, 60, 93)  # 44 rows: more than there is room for
    with pytest.raises(ReplayDataLost, match="its first 80 rows: those before row 24 were"):
        exact(client, name).go_back(snapshot)
    with pytest.raises(ReplayDataLost, match="those before row 24 were"):
        exact(client, name).go_back(snapshot)  # nothing was done
    first = exact(client, name)
    first.go_back(None)
    append(first, 0, 60)  # all of it once more
    exact(client, name).go_back(snapshot)


def test_another_replay_of_its_name_is_no_place_to_go_back_to(
    client: redis.Redis, name: str
) -> None:
    copy = exact(client, name)
    append(copy, 0, 30)
    snapshot = copy.snapshot()
    snapshot["0.at"][1] += 1
    with pytest.raises(ReplayDataLost, match="its first 41 rows: only 40 are there"):
        exact(client, name).go_back(snapshot)
    copy._store.remove()
    with pytest.raises(ReplayDataLost, match="it was removed, or lost"):
        exact(client, name).go_back(snapshot)


def test_what_others_append_is_refused(client: redis.Redis, name: str) -> None:
    copy = exact(client, name)
    append(copy, 0, 6)
    ReplayProducer(copy._store).append(make_rows(2, range(3)))
    with pytest.raises(PreconditionFailed, match="somebody else appends to it"):
        append(copy, 6, 9)


def test_what_a_snapshot_needs_is_on_disk_when_it_is_taken(client: redis.Redis, name: str) -> None:
    copy = exact(client, name)
    synced = []
    for first, end in pairwise(range(0, 12, 3)):
        append(copy, first, end)
        copy.snapshot()
        synced.append(int(client.hget(f"{copy._store.shards[0].prefix}meta", "durable_head")))
    assert synced == [4, 8, 12]
