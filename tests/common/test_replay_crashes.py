"""A Valkey that is killed, goes away, comes back, and fills up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from replay_rig import SCHEMA, make_rows

from services.common.embedded_redis import EmbeddedRedis
from services.common.errors import ReplayUnavailable, StorageFull
from services.common.replay import (
    ReplayMirror,
    ReplayProducer,
    ReplaySchema,
    ReplayStore,
    connect,
    patiently,
)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server of the test's own, which it may kill."""
    with EmbeddedRedis(tmp_path) as server:
        yield server


@pytest.fixture
def store(valkey: EmbeddedRedis) -> Iterator[ReplayStore]:
    with connect(valkey.url) as client:
        yield ReplayStore(client, "crashes", SCHEMA, 1000)


def steps_in(store: ReplayStore) -> list[int]:
    return SCHEMA.unpack(store.tail(0, 1 << 20)[2])["step"].tolist()


def test_nothing_acknowledged_is_lost_by_kill_9(valkey: EmbeddedRedis, store: ReplayStore) -> None:
    writer, copy = ReplayProducer(store), ReplayMirror(store)
    for start in range(0, 30, 5):
        writer.append(make_rows(1, range(start, start + 5)))
        if start == 10:
            copy.sync()
    valkey.kill()
    valkey.start()
    assert writer.append(make_rows(1, range(30, 35))) == 35
    assert steps_in(store) == list(range(35))
    assert copy.sync() == 20


def test_a_chunk_sent_while_nobody_answers_counts_once_when_somebody_does(
    valkey: EmbeddedRedis, store: ReplayStore
) -> None:
    writer, copy = ReplayProducer(store), ReplayMirror(store)
    writer.append(make_rows(1, range(3)))
    valkey.kill()
    for _ in range(2):
        with pytest.raises(ReplayUnavailable, match="appending to replay crashes"):
            writer.append(make_rows(1, range(3, 6)))
    with pytest.raises(ReplayUnavailable, match="reading replay crashes"):
        copy.sync()
    valkey.start()
    assert writer.append(make_rows(1, range(3, 6))) == 6
    assert copy.sync() == 6
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
    assert head == 6
    assert len(told) == 2
    assert "Redis does not answer" in told[0]


def test_a_server_that_lost_its_folder_gets_what_is_kept(
    valkey: EmbeddedRedis, store: ReplayStore, tmp_path: Path
) -> None:
    writer, copy = ReplayProducer(store), ReplayMirror(store)
    for start in (0, 3):
        writer.append(make_rows(1, range(start, start + 3)))
        copy.sync()
    valkey.kill()
    with EmbeddedRedis(tmp_path / "empty", port=valkey.port):
        assert writer.append(make_rows(1, [6])) == 7
        assert steps_in(store) == list(range(7))
        copy.sync()
        assert (copy.head, copy.size) == (7, 7)


def test_a_full_server_says_so_and_forgets_nothing(valkey: EmbeddedRedis) -> None:
    schema = ReplaySchema.transitions((2500,), "float32")  # 20 kB a row
    with connect(valkey.url) as client:
        store = ReplayStore(client, "full", schema, 1000)
        writer = ReplayProducer(store)
        writer.append(schema.empty(50))
        client.config_set("maxmemory", client.info("memory")["used_memory"])
        for _ in range(2):
            with pytest.raises(StorageFull, match="out of memory"):
                writer.append(schema.empty(50))
        assert store.tail(0, 1)[0] == 50
        assert len(store.tail(0, 50)[2]) == 50 * schema.dtype.itemsize
        client.config_set("maxmemory", 0)
        assert writer.append(schema.empty(50)) == 100
