"""A Valkey that is killed, loses power, comes back and fills up; a producer that is killed.

Killing the server loses nothing that it has handed to the operating system. A machine that
loses power is played by cutting the append-only file back to an earlier length.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from replay_rig import SCHEMA, make_rows, steps_of, until_written

from services.common.embedded_redis import EmbeddedRedis
from services.common.errors import ReplayDataLost, ReplayUnavailable, StorageFull
from services.common.replay import (
    Limits,
    ReplayProducer,
    ReplaySchema,
    ReplayStore,
    connect,
    patiently,
)
from services.common.replay.schema import CLOSING, Rows
from services.common.replay.wellformed import first_fault


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server of the test's own, which it may kill."""
    with EmbeddedRedis(tmp_path) as server:
        yield server


@pytest.fixture
def store(valkey: EmbeddedRedis) -> Iterator[ReplayStore]:
    with connect(valkey.url) as client:
        yield ReplayStore(client, "crashes", SCHEMA, 1000)


def rows_in(store: ReplayStore) -> Rows:
    return SCHEMA.unpack(store.shards[0].tail(0, 1 << 20).data)


def steps_in(store: ReplayStore) -> list[int]:
    return steps_of(rows_in(store))["step"].tolist()


def append_file(valkey: EmbeddedRedis) -> Path:
    (found,) = (valkey.folder / "appendonlydir").glob("*.incr.aof")
    return found


def length_written(valkey: EmbeddedRedis) -> int:
    """Of the append-only file, with all in it that was done before."""
    until_written(valkey.url)
    return append_file(valkey).stat().st_size


def cut_power(valkey: EmbeddedRedis, length: int) -> None:
    """Kill the server and drop what it wrote beyond this length."""
    valkey.kill()
    with append_file(valkey).open("r+b") as file:
        file.truncate(length)
    valkey.start()


@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path, appendfsync: str) -> None:
    with (
        EmbeddedRedis(tmp_path, options={"appendfsync": appendfsync}) as valkey,
        connect(valkey.url) as client,
    ):
        store = ReplayStore(client, "crashes", SCHEMA, 1000)
        assert client.config_get("appendfsync") == {"appendfsync": appendfsync}
        writers = [ReplayProducer(store) for _ in range(2)]
        for episode, writer in enumerate(writers):
            for start in range(0, 30, 5):
                writer.append(make_rows(episode, range(start, start + 5)))
        before = store.shards[0].tail(0, 1)
        valkey.kill()
        valkey.start()
        for episode, writer in enumerate(writers):
            writer.append(make_rows(episode, range(30, 35)))
        after = store.shards[0].tail(0, 1)
        assert (after.previous_epoch, after.epoch_head) == (before.epoch, before.head)
        assert after.inserted == 70
        assert sorted(steps_in(store)) == sorted([*range(35)] * 2)


@pytest.mark.parametrize("torn", [False, True], ids=["between chunks", "within a chunk"])
def test_what_power_took_is_sent_again_once(
    valkey: EmbeddedRedis, store: ReplayStore, torn: bool
) -> None:
    writers = [ReplayProducer(store) for _ in range(2)]
    for start in range(0, 20, 5):
        for episode, writer in enumerate(writers):
            writer.append(make_rows(episode, range(start, start + 5)))
        if start == 5:
            kept, then = length_written(valkey), store.shards[0].tail(0, 1)
    cut_power(valkey, kept + 200 if torn else kept)
    first, other = writers
    first.append(make_rows(0, range(20, 25)))
    tail = store.shards[0].tail(0, 1)
    assert (tail.previous_epoch, tail.epoch_head) == (then.epoch, then.head)
    other.append(make_rows(1, range(20, 25)))
    rows = rows_in(store)
    assert first_fault(SCHEMA, rows) is None
    for episode in (0, 1):
        own = steps_of(rows[rows["episode_id"] == episode])
        assert own["step"].tolist() == list(range(25))
    assert store.shards[0].tail(0, 1).inserted == 50


def test_what_power_took_and_nobody_kept_is_said_to_be_lost(
    valkey: EmbeddedRedis, store: ReplayStore
) -> None:
    writer = ReplayProducer(store, kept_s=0)
    writer.append(make_rows(1, range(3)))
    kept = length_written(valkey)
    for start in (3, 6):
        writer.append(make_rows(1, range(start, start + 3)))
    cut_power(valkey, kept)
    with pytest.raises(ReplayDataLost, match="lost chunks 2 to 3"):
        writer.append(make_rows(1, range(9, 12)))


def test_power_lost_twice_in_a_second_is_seen_as_such(
    valkey: EmbeddedRedis, store: ReplayStore
) -> None:
    """The first restart's note is lost in the second crash: it must not look like the second."""
    (shard,) = store.shards
    writer = ReplayProducer(store)
    writer.append(make_rows(1, range(3)))
    kept = length_written(valkey)
    valkey.kill()
    valkey.start()
    seen = shard.tail(0, 1)
    cut_power(valkey, kept)
    now = shard.tail(0, 1)
    assert now.epoch != seen.epoch
    assert now.previous_epoch != seen.epoch
    assert now.previous_epoch == seen.previous_epoch


def test_limits_and_their_counts_outlive_a_crash(valkey: EmbeddedRedis) -> None:
    limits = Limits(1, 10, min_size=1)
    with connect(valkey.url) as client:
        store = ReplayStore(client, "limited", SCHEMA, 1000, limits=limits)
        (shard,) = store.shards
        writer = ReplayProducer(store)
        writer.append(make_rows(1, range(10)))
        shard.tail(0, 0, sampled=9)
        shard.save_priorities("s", 11, 2.0, [])
        kept = length_written(valkey)
        shard.tail(0, 0, sampled=1)
        writer.append(make_rows(1, range(10, 20)))
        shard.tail(0, 0, sampled=10)
        cut_power(valkey, kept)
        assert shard.tail(0, 0, sampled=5)[-2:] == (10, 25)
        writer.append(make_rows(1, range(20, 30)))
        assert shard.tail(0, 0)[-2:] == (30, 25)
        assert shard.stats().limits == limits
        saved = shard.load_priorities("s")
        assert saved is not None
        assert (saved.head, saved.maximum) == (11, 2.0)


def test_a_chunk_sent_while_nobody_answers_counts_once_when_somebody_does(
    valkey: EmbeddedRedis, store: ReplayStore
) -> None:
    writer = ReplayProducer(store)
    writer.append(make_rows(1, range(3)))
    valkey.kill()
    for _ in range(2):
        with pytest.raises(ReplayUnavailable, match="appending to replay crashes"):
            writer.append(make_rows(1, range(3, 6)))
    with pytest.raises(ReplayUnavailable, match="reading replay crashes"):
        store.shards[0].tail(0, 1)
    valkey.start()
    assert writer.append(make_rows(1, range(3, 6))) == 8
    assert steps_in(store) == list(range(6))


def test_patience_outlasts_a_crash(valkey: EmbeddedRedis, store: ReplayStore) -> None:
    writer = ReplayProducer(store)
    writer.append(make_rows(1, range(3)))
    valkey.kill()
    told: list[str] = []

    def on_wait(error: Exception, seconds: float) -> None:
        told.append(str(error))
        if len(told) == 2:
            valkey.start()

    head = patiently(lambda: writer.append(make_rows(1, range(3, 6))), on_wait=on_wait)
    assert head == 8
    assert len(told) == 2
    assert "Redis does not answer" in told[0]


def test_a_server_that_lost_its_folder_gets_what_is_kept(
    valkey: EmbeddedRedis, store: ReplayStore, tmp_path: Path
) -> None:
    writer = ReplayProducer(store)
    for start in (0, 3):
        writer.append(make_rows(1, range(start, start + 3)))
    valkey.kill()
    with EmbeddedRedis(tmp_path / "empty", port=valkey.port):
        assert writer.append(make_rows(1, [6])) == 10
        assert steps_in(store) == list(range(7))


def test_a_full_server_says_so_and_forgets_nothing(valkey: EmbeddedRedis) -> None:
    schema = ReplaySchema.transitions((2500,), "float32")  # 10 kB a row
    with connect(valkey.url) as client:
        store = ReplayStore(client, "full", schema, 10_000)
        (shard,), writer = store.shards, ReplayProducer(store)
        rows = schema.empty(100)
        rows["step"] = range(100)
        client.config_set("maxmemory", client.info("memory")["used_memory"] + (12 << 20))
        sent = chunks_until_full(writer, rows)
        assert sent > 0
        with pytest.raises(StorageFull, match="out of memory"):
            writer.append(rows)
        # Reading goes on, and so does counting what is sampled.
        tail = shard.tail(0, 10_000, sampled=7)
        assert (tail.head, tail.first, tail.sampled) == (100 * sent, 0, 7)
        assert schema.unpack(tail.data)["step"].tolist() == [*range(100)] * sent
        assert len(shard.sample(np.arange(50)).missing) == 0
        assert ReplayStore.open_existing(client, "full").shards[0].stats().rows == 100 * sent
        assert client.info("stats")["evicted_keys"] == 0
        client.config_set("maxmemory", 0)
        assert writer.append(rows) == 100 * (sent + 1)
        assert schema.unpack(shard.tail(100 * sent, 10_000).data)["step"].tolist() == [*range(100)]


def chunks_until_full(writer: ReplayProducer, rows: Rows) -> int:
    for sent in range(100):
        try:
            writer.append(rows)
        except StorageFull:
            return sent
    raise AssertionError("there was room for everything")


def test_a_producer_killed_in_mid_append_leaves_whole_chunks_and_no_trace_of_others(
    store: ReplayStore, valkey: EmbeddedRedis
) -> None:
    survivor = ReplayProducer(store)
    survivor.append(make_rows(9, range(4)))
    acknowledged = 0
    for _ in range(3):
        acknowledged += _run_and_kill_a_producer(valkey.url)
        survivor.append(make_rows(9, range(4)))
    tail = store.shards[0].tail(0, 1 << 20)
    rows = SCHEMA.unpack(tail.data)
    assert first_fault(SCHEMA, rows[_whole_from(rows) :]) is None
    assert tail.head % 5 == 0  # every chunk is of four steps and what they led to
    assert tail.inserted == tail.head // 5 * 4
    # What was acknowledged is there; the chunk under way when the kill came may be.
    assert acknowledged + 4 <= tail.head // 5 <= acknowledged + 4 + 3


def _whole_from(rows: Rows) -> int:
    """Where the first whole fragment begins: the ring may have cut the one before."""
    return int((rows["kind"] == CLOSING).argmax()) + 1


def _run_and_kill_a_producer(url: str) -> int:
    """How many chunks a process saw acknowledged before it was killed while appending."""
    command = [sys.executable, "-c", _PRODUCE, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.read(1)
        process.send_signal(signal.SIGKILL)
        return 20 + len(process.stdout.read())


_PRODUCE = textwrap.dedent(
    """
    import os, sys
    sys.path.insert(0, "tests/support")
    from replay_rig import SCHEMA, make_rows
    from services.common.replay import ReplayProducer, ReplayStore, connect

    writer = ReplayProducer(ReplayStore(connect(sys.argv[1]), "crashes", SCHEMA, 1000))
    while True:
        writer.append(make_rows(1, range(4)))
        os.write(1, b".")
    """
)
