"""A replay on a cluster of three primaries and their replicas, one of which must take over."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from redis.crc import key_slot
from replay_operations import (
    CLUSTER_RULES,
    RULES,
    use_every_operation,
    use_every_operation_of_outcomes,
)
from replay_rig import SCHEMA, make_rows, steps_of
from valkey_cluster import PRIMARIES, SLOTS, Cluster, running_cluster, wait_until

from services.common.errors import InvalidConfig
from services.common.replay import (
    MirrorReplay,
    ReplayProducer,
    ReplayStore,
    Sampling,
    connect,
    list_replays,
    open_replay,
    patiently,
)
from services.common.replay.connection import Client
from services.common.replay.shard import ReplayShard
from services.common.replay.wellformed import first_fault

STEPS = 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def spread(cluster: Cluster) -> Iterator[Client]:
    with connect(cluster.url) as client:
        yield client


def node_of(shard: ReplayShard) -> int:
    return key_slot(shard.prefix.encode()) * PRIMARIES // SLOTS


def test_shards_are_spread_and_everything_works_on_each(spread: Client, name: str) -> None:
    store = ReplayStore(spread, name, SCHEMA, 300, shards=3)
    assert {node_of(shard) for shard in store.shards} == {0, 1, 2}
    for i, shard in enumerate(store.shards):
        writer = ReplayProducer(store, shard=i)
        writer.append(make_rows(i, range(STEPS)))
        assert steps_of(SCHEMA.unpack(shard.tail(0, 100).data))["step"].tolist() == [*range(STEPS)]
        assert len(shard.sample(np.array([0, 3])).missing) == 0
        shard.save_priorities("s", 6, 1.5, [(0, np.ones(100, dtype=np.float32))])
        saved = shard.load_priorities("s")
        assert saved is not None
        assert saved.priorities.sum() == 100
        assert shard.stats().rows == STEPS + 1
    assert name in list_replays(spread)
    again = ReplayStore.open_existing(spread, name)
    assert [shard.open() for shard in again.shards] == [STEPS + 1] * 3
    again.remove()
    assert name not in list_replays(spread)
    assert not [*spread.scan_iter(match=f"*{name}*")]


def test_learners_append_and_ask_ahead(spread: Client, name: str) -> None:
    generator = np.random.default_rng(0)
    store = ReplayStore(spread, name, SCHEMA, 300, shards=3)
    copy = MirrorReplay(store, Sampling(generator))
    for i, shard in enumerate(store.shards):
        ReplayProducer(store, shard=i).append(make_rows(i, range(STEPS)))
        assert shard.stats().inserted == STEPS
    for i in range(4):
        copy.append_ahead(make_rows(10 + i, range(STEPS)))
    copy.sync()
    assert copy.size == 7 * STEPS
    remote = open_replay(spread, name, SCHEMA, 300, shards=3, generator=generator, mode="server")
    for _ in range(4):
        batch = remote.sample(50)
        np.testing.assert_array_equal(batch.observation + 1, batch.next_observation)
        assert set(batch.shard.tolist()) == {0, 1, 2}
    remote.close()
    copy.close()
    store.remove()


def test_a_primary_is_killed_and_its_replica_takes_over(cluster: Cluster, name: str) -> None:
    with connect(cluster.url) as client:
        store = ReplayStore(client, name, SCHEMA, 30_000, shards=3)
        mirror = MirrorReplay(store, Sampling(generator=np.random.default_rng(0)))
        (hit,) = (i for i, shard in enumerate(store.shards) if node_of(shard) == 1)
        seen = [shard.tail(0, 0) for shard in store.shards]
        actors = [Actor(cluster, name, number, shard=number % 3) for number in range(6)]
        for actor in actors:
            actor.thread.start()
        wait_until(lambda: all(actor.chunks > 20 for actor in actors))
        mirror.sync()
        cluster.primaries[1].kill()
        wait_until(lambda: cluster.replicas[1].has_role(b"master"))
        then = [actor.chunks for actor in actors]
        wait_until(
            lambda: all(actor.chunks > c + 20 for actor, c in zip(actors, then, strict=True))
        )
        for actor in actors:
            actor.stop()
        assert any(actor.waits for actor in actors if actor.shard == hit)
        patiently(mirror.sync, on_wait=lambda error, seconds: None)
        for i, shard in enumerate(store.shards):
            tail = shard.tail(0, 1 << 20)
            rows = SCHEMA.unpack(tail.data)
            assert first_fault(SCHEMA, rows) is None
            for actor in actors:
                own = steps_of(rows[rows["episode_id"] == actor.number])["step"]
                expected = STEPS * actor.chunks if actor.shard == i else 0
                assert own.tolist() == list(range(expected))
            assert (tail.epoch != seen[i].epoch) == (i == hit)
            np.testing.assert_array_equal(mirror._rings[i].rows[: tail.head], rows)


def test_who_is_refused_by_a_cluster_is_told_so(cluster: Cluster) -> None:
    url = f"redis+cluster://nobody:secret@127.0.0.1:{cluster.primaries[0].port}"
    with pytest.raises(InvalidConfig, match="Redis refuses it") as refused:
        connect(url)
    assert "secret" not in str(refused.value)


def test_a_user_with_the_rights_of_the_readme_can_do_everything(
    cluster: Cluster, name: str
) -> None:
    nodes = (*cluster.primaries, *cluster.replicas)
    for node in (node for node in nodes if node.pid):
        rules = (*RULES, *CLUSTER_RULES)
        node.ask("ACL", "SETUSER", "actor", "on", ">secret", *rules)
    use_every_operation(cluster.url.replace("://", "://actor:secret@"), name)


class Actor:
    """Appends one episode, five steps a chunk, from a thread of its own until told to stop."""

    def __init__(self, cluster: Cluster, name: str, number: int, shard: int) -> None:
        self.number, self.shard, self.chunks, self.waits = number, shard, 0, 0
        self._cluster, self._name = cluster, name
        self._stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def stop(self) -> None:
        """Returns once the last chunk is acknowledged."""
        self._stopping.set()
        self.thread.join()

    def _run(self) -> None:
        with connect(self._cluster.url) as client:
            store = ReplayStore(client, self._name, SCHEMA, 30_000, shards=3)
            writer = ReplayProducer(store, shard=self.shard)
            while not self._stopping.wait(0.005):
                start = STEPS * self.chunks
                rows = make_rows(self.number, range(start, start + STEPS))
                patiently(lambda rows=rows: writer.append(rows), on_wait=self._on_wait)
                self.chunks += 1

    def _on_wait(self, error: Exception, seconds: float) -> None:
        self.waits += 1


def test_outcomes_are_joined_in_a_cluster_too(cluster: Cluster, name: str) -> None:
    use_every_operation_of_outcomes(cluster.url, name)
