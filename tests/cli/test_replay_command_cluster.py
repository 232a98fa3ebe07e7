"""`tutelage replay` on a cluster, over whose nodes a replay is spread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from replay_rig import SCHEMA, make_rows
from valkey_cluster import PRIMARIES, Cluster, running_cluster

from services.cli import main
from services.common.replay import ReplayProducer, ReplayStore, connect, list_replays
from services.common.replay.connection import Client

STEPS = 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The cluster, where the commands look for it."""
    monkeypatch.setenv("TUTELAGE_REDIS_URL", cluster.url)
    monkeypatch.setenv("TUTELAGE_DATA_DIR", str(tmp_path / "var"))
    monkeypatch.chdir(tmp_path)
    with connect(cluster.url) as client:
        yield client


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["replay", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_all_shards_are_listed_checked_taken_out_and_removed(client: Client) -> None:
    store = ReplayStore(client, "spread", SCHEMA, 300, shards=PRIMARIES)
    for shard in range(PRIMARIES):
        ReplayProducer(store, shard).append(make_rows(shard, range(STEPS), terminated=STEPS - 1))
    assert "33" in run("ls")
    assert "spread" in run("show", "spread")
    verified = run("verify", "spread")
    assert [f"shard {i}: " in verified for i in range(PRIMARIES)] == [True] * PRIMARIES
    run("export", "spread", "steps.parquet")
    run("import", "steps.parquet", "again")
    assert ReplayStore.open_existing(client, "again").shards[0].stats().inserted == 3 * STEPS
    run("rm", "--yes", "--force", "spread", "again")
    assert list_replays(client) == []


def test_damage_on_one_node_is_told(client: Client) -> None:
    store = ReplayStore(client, "damaged", SCHEMA, 300, shards=PRIMARIES)
    for shard in range(PRIMARIES):
        ReplayProducer(store, shard).append(make_rows(shard, range(STEPS), terminated=STEPS - 1))
    client.delete(f"{store.shards[1].prefix}block:0")
    assert "shard 1: blocks" in run("verify", "damaged", code=1)
    store.remove()
