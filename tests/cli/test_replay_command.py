"""`tutelage replay` as a person would call it, on a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from click.testing import CliRunner, Result
from replay_rig import SCHEMA, make_rows

from services.cli import main
from services.cli.launcher.data_folder import claimed
from services.cli.launcher.platform_children import LauncherSettings, platform_children
from services.common.embedded_redis import EmbeddedRedis, published_url
from services.common.ports import free_port
from services.common.replay import Limits, ReplayProducer, ReplayStore, connect, list_replays
from services.common.replay.dataset import all_stretches


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def client(
    valkey: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis.Redis]:
    """An empty Redis, where the commands look for it."""
    monkeypatch.setenv("TUTELAGE_REDIS_URL", valkey.url)
    monkeypatch.setenv("TUTELAGE_DATA_DIR", str(tmp_path / "var"))
    monkeypatch.chdir(tmp_path)
    with connect(valkey.url) as client:
        client.flushall()
        yield client


def run(*arguments: str, input: str | None = None) -> Result:
    """Call the command; what it fails with must be for people."""
    result = CliRunner().invoke(main, ["replay", *arguments], input=input)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def text(*arguments: str, input: str | None = None) -> str:
    result = run(*arguments, input=input)
    assert result.exit_code == 0, result.output
    return result.output


def error(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip()


def fill(client: redis.Redis, name: str, *, idle: bool = True) -> ReplayStore:
    """Three episodes of ten steps; written long ago if `idle`."""
    store = ReplayStore(client, name, SCHEMA, 100)
    producer = ReplayProducer(store)
    for episode in range(3):
        producer.append(make_rows(episode, range(10), terminated=9))
    if idle:
        meta = f"{store.shards[0].prefix}meta"
        for field in client.hkeys(meta):
            if field.startswith(b"producer:"):
                client.hset(meta, field, "3 1")
    return store


def test_where_there_is_none_the_next_step_is_named(client: redis.Redis) -> None:
    assert "tutelage train cartpole-dqn" in text("ls")
    assert error("show", "nope") == "no replay 'nope'; there are: none"


def test_replays_are_listed(client: redis.Redis) -> None:
    fill(client, "first")
    fill(client, "second", idle=False).shards[0].tail(0, 10, sampled=60)
    lines = text("ls").splitlines()
    assert lines[0].split() == [
        *("replay", "rows", "full", "size", "oldest", "rows/s", "sampled", "in", "use")
    ]
    assert lines[1].split()[:3] == ["first", "33", "33%"]
    assert "0.0 times" in lines[1]
    assert "2.0 times  1 producer" in lines[2]


def test_a_replay_is_shown_with_its_columns(client: redis.Redis) -> None:
    fill(client, "first")
    ReplayStore(client, "first", SCHEMA, 100, limits=Limits(4, 100, 10))
    output = text("show", "first")
    assert "rows               33 of 100, 33 ever appended\n" in output
    assert "limits             4 samples a step, from 10 steps on, give or take 100" in output
    assert "in use             no\n" in output
    assert ["observation", "float32", "1"] in [line.split() for line in output.splitlines()]
    assert error("show", "frist") == "no replay 'frist'; there are: first"


def test_a_sound_replay_is_verified_and_a_damaged_one_is_not(client: redis.Redis) -> None:
    store = fill(client, "first")
    output = text("verify", "first")
    assert "✓ rows up to 32: 30 steps in whole fragments\n" in output
    assert output.endswith("\nfirst is sound.\n")
    column = SCHEMA.dtype.fields["step"][1]  # type: ignore[index]
    at = 12 * SCHEMA.row_bytes + column
    client.setrange(f"{store.shards[0].prefix}block:0", at, np.uint32(77).tobytes())
    result = run("verify", "first")
    assert result.exit_code == 1
    assert "✗ rows from 0 on: row 12 is step 77 after step 0\n" in result.output
    assert "tutelage replay rm first" in result.output


def test_removing_asks_first(client: redis.Redis) -> None:
    fill(client, "first")
    fill(client, "second")
    result = run("rm", "first", input="n\n")
    assert result.exit_code == 1
    assert "first: 33 rows, " in result.output
    assert list_replays(client) == ["first", "second"]
    assert text("rm", "first", input="y\n").endswith("first is removed\n")
    assert text("rm", "--yes", "second") == "second is removed\n"
    assert client.dbsize() == 0


def test_a_replay_in_use_is_not_removed_unless_forced(client: redis.Redis) -> None:
    fill(client, "idle")
    fill(client, "busy", idle=False)
    assert error("rm", "--yes", "idle", "busy").startswith(
        "replay busy is in use: 1 producer wrote to it in the last 60 s; stop the run first"
    )
    assert list_replays(client) == ["busy", "idle"]
    assert error("rm", "--yes", "idle", "nope").startswith("no replay 'nope'; there are: busy")
    assert list_replays(client) == ["busy", "idle"]
    text("rm", "--yes", "--force", "busy")
    assert list_replays(client) == ["idle"]


def test_a_replay_leaves_as_a_file_and_enters_again(client: redis.Redis, tmp_path: Path) -> None:
    store = fill(client, "first")
    assert text("export", "first", "steps.parquet") == (
        "steps.parquet: 30 steps in 3 episode stretches\n"
    )
    assert text("import", "steps.parquet", "second") == (
        "second: 30 steps in 3 episode stretches, capacity 33 rows\n"
    )
    copy = ReplayStore.open_existing(client, "second")
    assert np.array_equal(
        np.concatenate(list(all_stretches(store))), np.concatenate(list(all_stretches(copy)))
    )
    assert error("import", "steps.parquet", "second").startswith("there is a replay 'second' alr")
    assert error("import", "other.parquet", "third") == "there is no file other.parquet"


def test_a_file_that_is_damaged_leaves_no_replay_behind(client: redis.Redis) -> None:
    import pyarrow.parquet as pq

    fill(client, "first")
    text("export", "first", "steps.parquet")
    pq.write_table(pq.read_table("steps.parquet").slice(0, 32), "steps.parquet")
    assert error("import", "steps.parquet", "second") == (
        "steps.parquet ends within a stretch, at row 31"
    )
    assert list_replays(client) == ["first"]


def test_a_replay_leaves_as_a_minari_dataset_and_enters_again(
    client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    store = fill(client, "first")
    text("export", "first", "minari:carts/first-v0")
    dataset = minari.load_dataset("carts/first-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 30)
    episode = dataset[1]
    assert episode.observations[:, 0].tolist() == [100.0 + t for t in range(11)]
    assert episode.terminations.tolist() == [False] * 9 + [True]
    text("import", "minari:carts/first-v0", "second")
    copy = ReplayStore.open_existing(client, "second")
    assert copy.schema == store.schema
    assert np.array_equal(
        np.concatenate(list(all_stretches(store))), np.concatenate(list(all_stretches(copy)))
    )
    assert error("export", "first", "minari:carts/first-v0").startswith("there is a Minari data")
    assert error("import", "minari:carts/other-v0", "x").startswith("no local Minari dataset")


def test_a_redis_that_is_not_there_is_one_line(client: redis.Redis) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    message = error("ls", "--redis-url", url)
    assert "Redis does not answer" in message
    assert "secret" not in message


def test_the_data_folder_is_found_where_nothing_is_running(
    client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUTELAGE_REDIS_URL")
    assert error("ls").startswith("no replays: there is no")
    assert not (tmp_path / "var").exists()
    fill(client, "first")
    text("export", "first", "steps.parquet", "--redis-url", published(client))
    text("import", "steps.parquet", "kept")
    assert text("ls").splitlines()[1].startswith("kept")


def test_the_server_of_what_runs_on_the_data_folder_is_found(
    client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUTELAGE_REDIS_URL")
    with claimed(tmp_path / "var"):
        assert "has no Redis in it" in error("ls")
        with EmbeddedRedis(tmp_path / "var" / "redis") as server:
            assert published_url(server.folder) == server.url
            with connect(server.url) as own:
                fill(own, "running")
            assert text("ls").splitlines()[1].startswith("running")


def test_the_launcher_leaves_word_of_its_server(tmp_path: Path) -> None:
    platform_children(LauncherSettings(data_dir=tmp_path, redis_port=7391))
    assert published_url(tmp_path / "redis") == "redis://127.0.0.1:7391/0"


def published(client: redis.Redis) -> str:
    """The URL of a client's server."""
    place = client.get_connection_kwargs()
    return f"redis://{place['host']}:{place['port']}/0"
