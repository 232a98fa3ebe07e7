"""The learner's copy: what it copies, how it notices what changed, and what it must not miss."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replay_oracle import Actor
from replay_rig import SCHEMA, losing_replies, make_rows, until_written

from services.common.embedded_redis import EmbeddedRedis
from services.common.errors import ReplayBackpressure, ReplayDataLost, ReplayUnavailable
from services.common.replay import (
    Limits,
    MemoryReplay,
    MirrorReplay,
    Prioritized,
    ReplayProducer,
    ReplaySchema,
    ReplayStore,
    Sampling,
    connect,
    mirror,
    ration,
)
from services.common.replay.answers import Tail
from services.common.replay.local import LocalReplay
from services.common.replay.ring import NONE
from services.common.replay.samplers import Drawn
from services.common.replay.shard import ReplayShard

STACKED = ReplaySchema.transitions((1,), "float32", stack=3)


def sampling(**options: object) -> Sampling:
    return Sampling(np.random.default_rng(0), **options)


def mirrored(client: redis.Redis, name: str, capacity: int, **options: object) -> MirrorReplay:
    return MirrorReplay(ReplayStore(client, name, SCHEMA, capacity), sampling(**options))


def steps_of(replay: LocalReplay) -> list[int]:
    """The steps that can be sampled."""
    ring = replay._rings[0]
    return ring.rows["step"][ring.steps % ring.capacity].tolist()


def followers_of(replay: LocalReplay) -> list[int]:
    """Where among those each one's next step stands; -1 where there is none."""
    ring = replay._rings[0]
    following = ring.next_slot[ring.steps % ring.capacity]
    places = np.searchsorted(ring.steps, ring.number(following))
    return np.where(following == NONE, -1, places).tolist()


def assert_same(copy: LocalReplay, expected: LocalReplay) -> None:
    """All that can be sampled is the same, with what is reached by several steps."""
    assert (copy.head, copy.size) == (expected.head, expected.size)
    numbers = expected._rings[0].steps
    np.testing.assert_array_equal(copy._rings[0].steps, numbers)
    if len(numbers):
        one, two = (replay._part(Drawn(0, numbers)) for replay in (copy, expected))
        np.testing.assert_array_equal(one.windows, two.windows)
        np.testing.assert_array_equal(one.reached, two.reached)
        np.testing.assert_array_equal(one.reward, two.reward)


def test_copies_what_came_since_the_last_time(client: redis.Redis, name: str) -> None:
    copy = mirrored(client, name, 20)
    assert copy.sync() == 0
    copy.append(make_rows(1, range(3)))
    assert copy.size == 0
    assert copy.sync() == 4
    copy.append(make_rows(1, range(3, 5)))
    assert copy.sync() == 3
    assert copy.sync() == 0
    assert (copy.head, copy.size) == (7, 5)
    assert steps_of(copy) == [0, 1, 2, 3, 4]


def test_a_mirror_that_was_lapped_goes_on_from_what_is_there(
    client: redis.Redis, name: str
) -> None:
    copy = mirrored(client, name, 8)
    copy.append(make_rows(1, range(3)))
    copy.sync()
    for start in range(3, 15, 3):
        copy.append(make_rows(1, range(start, start + 3)))
    assert copy.sync() == 8
    assert (copy.head, copy.size) == (20, 6)
    assert steps_of(copy) == [9, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("trip", [1, 3, 7])
def test_a_long_replay_is_copied_in_several_trips(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch, trip: int
) -> None:
    monkeypatch.setattr(mirror, "ROWS_A_TRIP", trip)
    copy, expected = (
        mirrored(client, name, 40, n_step=9),
        MemoryReplay(SCHEMA, 40, sampling(n_step=9)),
    )
    for start, end in ((0, 2), (2, 8), (8, 9), (9, 20)):
        for replay in (copy, expected):
            replay.append(make_rows(1, range(start, end)))
    copy.sync()
    assert_same(copy, expected)


def test_a_replay_that_was_made_anew_is_copied_anew(client: redis.Redis, name: str) -> None:
    copy = mirrored(client, name, 20)
    copy.append(make_rows(1, range(6)))
    copy.sync()
    copy._store.remove()
    fresh = ReplayStore(client, name, SCHEMA, 20)
    ReplayProducer(fresh).append(make_rows(2, range(6, 16)))
    copy.sync()
    assert steps_of(copy) == list(range(6, 16))


def test_a_replay_that_is_gone_is_said(client: redis.Redis, name: str) -> None:
    copy = mirrored(client, name, 10)
    copy._store.remove()
    with pytest.raises(ReplayDataLost, match="no longer in Redis"):
        copy.sync()


def test_a_learner_waits_for_the_limits_and_says_for_what(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(samples_per_insert=2, error_buffer=20, min_size=4)
    copy = MirrorReplay(ReplayStore(client, name, SCHEMA, 100, limits=limits), sampling())
    copy.append(make_rows(1, range(3)))
    monkeypatch.setattr(ration, "TIMEOUT_S", 0.05)
    with pytest.raises(ReplayUnavailable, match=r"allow 0 samples after 3 steps, a batch is 10"):
        copy.sample(10)
    monkeypatch.setattr(ration, "TIMEOUT_S", 60.0)
    late = threading.Timer(0.2, lambda: late_writer.append(make_rows(2, range(3))))
    with connect_again(client) as other:
        late_writer = ReplayProducer(ReplayStore(other, name, SCHEMA, 100))
        late.start()
        assert len(copy.sample(10)) == 10
        late.join()
    copy.sync()
    assert copy._store.shards[0].tail(0, 0).sampled == 10


@contextlib.contextmanager
def connect_again(client: redis.Redis) -> Iterator[redis.Redis]:
    options = client.get_connection_kwargs()
    with connect(f"redis://{options['host']}:{options['port']}/0") as other:
        yield other


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """Things that happen: (what, which actor, how its steps end)."""
    kinds = st.sampled_from(
        ["append", "append", "ahead", "own", "lose reply", "lose own reply", "sync", "reopen"]
    )
    end = st.sampled_from(["", "", "", "terminated", "truncated"])
    steps = st.lists(st.tuples(end, end), min_size=1, max_size=9)
    return draw(st.lists(st.tuples(kinds, st.integers(0, 2), steps), min_size=1, max_size=20))


@pytest.mark.parametrize("schema", [SCHEMA, STACKED])
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(events=histories())
def test_whatever_producers_do_the_mirror_holds_what_memory_would(
    client: redis.Redis, schema: ReplaySchema, events: list[tuple[str, int, list[tuple[str, str]]]]
) -> None:
    store = ReplayStore(client, f"mirror-{uuid.uuid4().hex}", schema, 31)
    producers = [ReplayProducer(store) for _ in range(3)]
    actors = [Actor(schema, number) for number in range(4)]
    copy = MirrorReplay(store, sampling(n_step=3))
    expected = MemoryReplay(schema, 31, sampling(n_step=3))
    for what, who, ends in events:
        if what == "sync":
            copy.sync()
            assert copy.head == expected.head
        elif what == "reopen":
            copy.close()
            copy = MirrorReplay(store, sampling(n_step=3))
        elif what in ("ahead", "own", "lose own reply"):  # the learner's own actor
            rows = actors[3].chunk(ends)
            append = copy.append if what == "own" else copy.append_ahead
            if what == "lose own reply":
                with losing_replies(store.shards[0]), contextlib.suppress(ReplayUnavailable):
                    copy.append(rows)
                copy.append(rows)
            else:
                append(rows)
            copy.checkpoint()  # else others' chunks might come before it
            expected.append(rows)
        else:
            rows = actors[who].chunk(ends)
            if what == "lose reply":
                with losing_replies(store.shards[0]), contextlib.suppress(ReplayUnavailable):
                    producers[who].append(rows)
            producers[who].append(rows)
            expected.append(rows)
    copy.sync()
    fresh = MirrorReplay(store, sampling(n_step=3))
    fresh.sync()
    for found in (copy, fresh):
        assert_same(found, expected)
    store.remove()


def test_what_power_took_of_the_server_is_replaced_by_what_it_has(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as valkey, connect(valkey.url) as client:
        copy = mirrored(client, "restarted", 100, sampler=Prioritized())
        copy.append(make_rows(1, range(5)))
        (log,) = (valkey.folder / "appendonlydir").glob("*.incr.aof")
        until_written(valkey.url)
        length = log.stat().st_size
        copy.append(make_rows(1, range(5, 9)))
        copy.sync()
        assert steps_of(copy) == list(range(9))
        late = copy.sample(200).index
        valkey.kill()
        with log.open("r+b") as file:
            file.truncate(length)
        valkey.start()
        other = ReplayProducer(ReplayStore(client, "restarted", SCHEMA, 100))
        other.append(make_rows(7, range(20, 23)))
        copy.sync()
        assert steps_of(copy) == [0, 1, 2, 3, 4, 20, 21, 22]
        copy.append(make_rows(1, range(9, 10)))  # the producer sends again what was lost
        copy.sync()
        assert steps_of(copy) == [0, 1, 2, 3, 4, 20, 21, 22, 5, 6, 7, 8, 9]
        assert copy._prioritized.trees[0].total == pytest.approx(13)
        copy.update_priorities(late, np.full(200, 5.0))  # numbers that others have now
        assert copy._prioritized.trees[0].total == pytest.approx(13)
        batch = copy.sample(200)
        copy.update_priorities(batch.index, np.ones(200))
        copy.update_priorities(batch.index[batch.rows["step"] == 21][:1], np.array([5.0]))
        assert copy._prioritized.trees[0].total == pytest.approx(12 + 5**0.6, rel=1e-5)
        assert followers_of(copy) == [1, 2, 3, 4, 8, 6, 7, -1, 9, 10, 11, 12, -1]


LEARNER = """
    import sys
    import numpy as np
    from services.common.replay import Prioritized, connect, open_replay
    from services.common.replay.schema import ReplaySchema

    schema = ReplaySchema.transitions((1,), "float32")
    with connect(sys.argv[1]) as client:
        replay = open_replay(
            client, sys.argv[2], schema, 100,
            generator=np.random.default_rng(0), sampler=Prioritized(alpha=1.0),
        )
        for i in range(1 << 30):
            batch = replay.sample(16)
            replay.update_priorities(batch.index, 1.0 + batch.index)
            if i % 50 == 49:
                replay.checkpoint()
                print(i, flush=True)
"""


def test_a_learner_killed_while_it_learns_finds_rows_and_priorities(
    shared_valkey: EmbeddedRedis, client: redis.Redis, name: str
) -> None:
    store = ReplayStore(client, name, SCHEMA, 100)
    ReplayProducer(store).append(make_rows(1, range(40)))
    command = [sys.executable, "-c", textwrap.dedent(LEARNER), shared_valkey.url, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as learner:
        assert learner.stdout is not None
        for _ in range(3):
            assert learner.stdout.readline()
        learner.send_signal(signal.SIGKILL)
    copy = MirrorReplay(store, sampling(sampler=Prioritized(alpha=1.0)))
    copy.sync()
    assert copy.size == 40
    values = copy._prioritized.trees[0].values[:40]
    numbers = np.arange(40)
    learnt = values == (1 + numbers + 1e-6).astype(np.float32)
    assert learnt.sum() > 30
    assert set(values[~learnt].tolist()) <= {1.0}  # never drawn: as when they came


def reads(shard: ReplayShard, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From which row on each read of the shard was."""
    found, real = [], shard.tail

    def tail(first: int, most: int, sampled: int = 0) -> Tail:
        found.append(first)
        return real(first, most, sampled)

    monkeypatch.setattr(shard, "tail", tail)
    return found


def test_own_rows_are_not_read_back(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = mirrored(client, name, 100)
    copy.sync()
    monkeypatch.setattr(mirror, "REPORT_PERIOD_S", 1000.0)
    asked = reads(copy._store.shards[0], monkeypatch)
    copy.append(make_rows(1, range(1)))
    for step in range(1, 4):
        copy.append_ahead(make_rows(1, range(step, step + 1)))
    assert asked == []
    assert steps_of(copy) == [0, 1, 2]
    assert copy.sync() == 2
    assert asked == [8]  # others may have appended after us
    copy.append_ahead(make_rows(1, range(4, 5)))
    assert asked == [8, 8]  # as we had not appended since
    copy.checkpoint()
    ReplayProducer(copy._store).append(make_rows(3, range(7, 9)))
    copy.append(make_rows(1, range(5, 6)))
    copy.append_ahead(make_rows(1, range(6, 7)))
    assert asked == [8, 8, 8]  # there was another's chunk between ours
    assert steps_of(copy) == [0, 1, 2, 3, 4, 7, 8, 5]
    monkeypatch.setattr(mirror, "REPORT_PERIOD_S", 0.0)
    copy.append_ahead(make_rows(1, range(7, 8)))
    assert asked == [8, 8, 8, 17]
    assert steps_of(copy)[-1] == 6


def test_rows_appended_ahead_are_there_after_the_next_call(client: redis.Redis, name: str) -> None:
    copy, expected = mirrored(client, name, 8), MemoryReplay(SCHEMA, 8, sampling())
    for i in range(12):
        for replay in (copy, expected):
            replay.append_ahead(make_rows(1, range(i, i + 1)))
        assert copy.size == expected.size == min(i, 4)
    for replay in (copy, expected):
        assert replay.sync() == 2
    assert steps_of(copy) == steps_of(expected) == [8, 9, 10, 11]


def test_a_chunk_on_its_way_when_the_server_dies_counts_once(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as valkey, connect(valkey.url) as client:
        copy = mirrored(client, "ahead", 100)
        copy.append_ahead(make_rows(1, range(3)))
        copy.append_ahead(make_rows(1, range(3, 5)))
        valkey.kill()
        left = [make_rows(1, range(5, 6))]
        with contextlib.suppress(ReplayUnavailable):  # unless the answer had come already
            copy.append_ahead(left[0])
            left.clear()
        with pytest.raises(ReplayUnavailable):
            copy.checkpoint()
        valkey.start()
        for rows in left:
            copy.append_ahead(rows)
        copy.checkpoint()
        copy.sync()
        assert steps_of(copy) == list(range(6))
        assert copy._store.shards[0].stats().inserted == 6


def test_a_chunk_ahead_that_must_wait_for_the_limits_is_sent_again(
    client: redis.Redis, name: str
) -> None:
    limits = Limits(samples_per_insert=1, error_buffer=8, min_size=1)
    store = ReplayStore(client, name, SCHEMA, 100, limits=limits)
    writer = ReplayProducer(store)
    writer.append_ahead(make_rows(1, range(8)))
    writer.append_ahead(make_rows(1, range(8, 16)))
    with pytest.raises(ReplayBackpressure):
        writer.settle(timeout_s=0)
    store.shards[0].tail(0, 0, sampled=8)
    writer.settle()
    writer.settle()
    assert store.shards[0].stats().inserted == 16


def test_samples_are_reported_at_the_latest_when_closing(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "REPORT_PERIOD_S", 1000.0)
    copy = mirrored(client, name, 100)
    copy.sync()
    copy.append(make_rows(1, range(5)))
    copy.sync()
    copy.sample(7)
    copy.append(make_rows(1, range(5, 9)))
    copy.sync()
    copy.sample(5)
    copy.close()
    assert copy._store.shards[0].stats().sampled == 12
