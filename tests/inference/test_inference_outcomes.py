"""Tracked decisions and reported outcomes: the real service, real gRPC, a real Valkey."""

from __future__ import annotations

import math
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from inference_process import InferenceProcess
from tiny_policies import CARTPOLE, linear_model, publish
from transports import TRANSPORTS

from services.common.embedded_redis import EmbeddedRedis
from services.common.outcomes import outcomes_replay
from services.common.ports import free_port
from services.common.registry import PolicyRegistry
from services.common.replay import ReplayStore
from services.common.replay.schema import STEP
from tutelage import AsyncClient, AsyncSession, Client, Session
from tutelage.errors import InvalidInput, NotFound, PreconditionFailed, Unavailable

STATE = np.array([0.1, 0.2, 0.3, 0.4], np.float32)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def client_of_redis(valkey: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        yield client


class World:
    """Two replicas of a service, a repository, and the replays they fill."""

    def __init__(
        self, folder: Path, valkey: EmbeddedRedis, client: redis.Redis, transport: str
    ) -> None:
        self.registry = PolicyRegistry(str(folder / "policies"))
        self.redis = client
        self.new_policy()
        self.metrics_port = free_port()
        self.replicas = [
            InferenceProcess(
                folder / "policies",
                folder / f"log-{i}",
                redis_url=valkey.url,
                inference_transport=transport,
                inference_track_wait_s=60,
                **({"inference_metrics_port": self.metrics_port} if not i else {}),
            )
            for i in range(2)
        ]
        self.client = self.replicas[0].client

    def new_policy(self, **parts: object) -> str:
        """A policy that no other test has."""
        name = f"probe-{uuid.uuid4().hex[:8]}"
        publish(self.registry, linear_model(), policy=name, **parts)
        return name

    def served(self, **parts: object) -> str:
        """The same, once both replicas serve it."""
        name = self.new_policy(**parts)
        for replica in self.replicas:
            replica.wait_until_serving(name, 1)
        return name

    def rows(self, policy: str, steps: int) -> np.ndarray:
        """The replay's rows, once there are so many steps."""
        return self.replicas[0].wait_for(lambda: rows_of(self.redis, policy, steps))[0]

    def metric(self, name: str, policy: str) -> float:
        """Of the first replica."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as page:
            lines = page.read().decode().splitlines()
        labels = f'{name}{{policy="{policy}"'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(labels))


def rows_of(client: redis.Redis, policy: str, steps: int) -> list[np.ndarray]:
    """All rows, in a list that is empty until there are so many steps."""
    try:
        store = ReplayStore.open_existing(client, outcomes_replay(policy))
    except NotFound:
        return []
    rows = store.schema.unpack(store.shards[0].tail(0, 1 << 16).data)
    return [rows] if np.count_nonzero(rows["kind"] == STEP) >= steps else []


@pytest.fixture(scope="module", params=TRANSPORTS)
def world(
    tmp_path_factory: pytest.TempPathFactory,
    valkey: EmbeddedRedis,
    client_of_redis: redis.Redis,
    request: pytest.FixtureRequest,
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("outcomes")
    world = World(folder, valkey, client_of_redis, request.param)
    yield world
    for replica in world.replicas:
        assert replica.stop() == 0
        assert replica.records("call failed") == []


def test_only_what_is_tracked_has_an_id(world: World) -> None:
    policy = world.served()
    assert world.client.act(STATE, policy=policy).decision_id == ""
    found = {world.client.act(STATE, policy=policy, track=True).decision_id for _ in range(20)}
    assert len(found) == 20
    assert all(one.endswith(f".{policy}") for one in found)


def test_a_session_becomes_an_episode_in_the_replay(world: World) -> None:
    policy = world.served()
    session = Session(world.client, policy=policy)
    states = np.arange(16, dtype=np.float32).reshape(4, 4) / 10
    decisions = [session.act(states[0], epsilon=0.5, seed=7)]
    assert session.report(states[1], 1.0)
    decisions.append(session.act(states[1]))
    assert session.report(states[2], 2.0)
    decisions.append(session.act(states[2], sample=True, seed=3, temperature=2.0))
    assert session.report(states[3], 3.0, truncated=True)
    decisions.append(session.act(states[0]))
    assert session.report(states[1], 4.0, terminated=True)

    rows = world.rows(policy, 4)
    rows = rows[np.lexsort((rows["step"], rows["episode_id"], -rows["kind"].astype(int)))]
    steps = np.sort(rows[rows["kind"] == STEP], order="reward")
    np.testing.assert_array_equal(steps["observation"], states[[0, 1, 2, 0]])
    assert steps["action"].tolist() == [d.action for d in decisions]
    assert steps["reward"].tolist() == [1, 2, 3, 4]
    assert steps["truncated"].tolist() == [False, False, True, False]
    assert steps["terminated"].tolist() == [False, False, False, True]
    assert steps["step"].tolist() == [0, 1, 2, 0]
    assert steps["policy_version"].tolist() == [1] * 4
    log_probabilities = [d.log_probability for d in decisions]
    log_probabilities[1] = log_probabilities[3] = 0.0  # greedy: it could be no other
    np.testing.assert_allclose(steps["log_probability"], log_probabilities, rtol=1e-6)
    closing = rows[rows["kind"] != STEP]
    assert any((row["observation"] == states[3]).all() for row in closing)


def test_any_replica_takes_the_outcome_and_it_counts_once(world: World) -> None:
    policy, (here, there) = world.served(), [r.client for r in world.replicas]
    decision = here.act(STATE, policy=policy, track=True)
    assert there.report(decision, 1.0, next_observation=STATE)
    assert not here.report(decision, 2.0, next_observation=STATE)
    assert not there.report(decision.decision_id, 3.0, terminated=True)
    after = there.act(STATE, policy=policy, track=True, previous=decision)
    assert here.report(after, 5.0, terminated=True)
    rows = world.rows(policy, 2)
    assert sorted(rows["reward"][rows["kind"] == STEP].tolist()) == [1, 5]


async def test_an_asyncio_session(world: World) -> None:
    policy = world.served()
    async with AsyncClient(world.replicas[0].address) as client:
        session = AsyncSession(client, policy=policy)
        for i in range(3):
            await session.act(STATE)
            assert await session.report(STATE, float(i), i == 2)
        with pytest.raises(InvalidInput, match="act first"):
            await session.report(STATE, 1.0)
    rows = world.rows(policy, 3)
    steps = np.sort(rows[rows["kind"] == STEP], order="step")
    assert steps["reward"].tolist() == [0, 1, 2]
    assert len(set(steps["episode_id"].tolist())) == 1


def test_masks_go_into_the_replay(world: World) -> None:
    policy = world.served(spec=CARTPOLE.model_copy(update={"masked": True}))
    first = world.client.act(STATE, policy=policy, mask=[True, False], track=True)
    world.client.act(STATE, policy=policy, mask=[False, True], track=True, previous=first)
    world.client.report(first, 1.0)
    last = world.client.act(STATE, policy=policy, track=True)
    world.client.report(last, 1.0, truncated=True, next_observation=STATE, next_mask=[True, False])
    rows = world.rows(policy, 2)
    found = sorted(rows["action_mask"].reshape(2, 4).tolist())
    assert found == [[True, False, False, True], [True, True, True, False]]


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ({"reward": math.nan}, "reward is nan, expected a finite number"),
        ({"reward": 1e39}, "expected a finite number, as a float32"),
        ({"reward": 1, "truncated": True}, "give next_observation"),
        ({"reward": 1, "next_observation": [1, 2]}, "what the decision led to: observation has"),
        ({"reward": 1, "next_observation": [math.inf] * 4}, "expected finite numbers"),
        (
            {"reward": 1, "next_observation": STATE, "next_mask": [False, False]},
            "allows no action",
        ),
    ],
)
def test_outcomes_that_do_not_fit_are_refused(
    world: World, outcome: dict[str, object], message: str
) -> None:
    policy = world.served()
    decision = world.client.act(STATE, policy=policy, track=True)
    with pytest.raises(InvalidInput, match=message):
        world.client.report(decision, **outcome)
    assert world.client.report(decision, 1.0, terminated=True)


@pytest.mark.parametrize("decision_id", ["x", "0" * 16 + ".ghost", "../..", "é" * 300])
def test_what_is_no_decision_is_not_found(world: World, decision_id: str) -> None:
    with pytest.raises(NotFound):
        world.client.report(decision_id, 1.0)


def test_unknown_decisions_and_those_not_tracked(world: World) -> None:
    policy = world.served()
    with pytest.raises(NotFound, match="has no such decision: decisions wait 60 s"):
        world.client.report("0" * 16 + f".{policy}", 1.0)
    with pytest.raises(InvalidInput, match="was not tracked"):
        world.client.report(world.client.act(STATE, policy=policy), 1.0)
    assert world.metric("tutelage_inference_outcomes_total", policy) == 1


def test_the_decision_before_must_be_of_the_same_policy(world: World) -> None:
    one, other = world.served(), world.served()
    decision = world.client.act(STATE, policy=one, track=True)
    for previous in (decision, "nonsense"):
        with pytest.raises(InvalidInput, match=f"that Act gave for policy '{other}'"):
            world.client.act(STATE, policy=other, track=True, previous=previous)


def test_a_decision_is_kept_for_a_limited_time(world: World, valkey: EmbeddedRedis) -> None:
    policy = world.new_policy()
    folder = Path(world.registry.url)
    short = InferenceProcess(
        folder, folder / "log-short", redis_url=valkey.url, inference_track_wait_s=0.1
    )
    try:
        decision = short.client.act(STATE, policy=policy, track=True)
        time.sleep(0.2)
        with pytest.raises(NotFound, match=r"decisions wait 0\.1 s"):
            short.client.report(decision, 1.0)
    finally:
        short.stop()


def test_every_decision_is_tracked_where_the_server_says_so(
    world: World, valkey: EmbeddedRedis
) -> None:
    policy = world.new_policy()
    folder = Path(world.registry.url)
    eager = InferenceProcess(
        folder, folder / "log-all", redis_url=valkey.url, inference_track_all=True
    )
    try:
        decision = eager.client.act(STATE, policy=policy)
        assert eager.client.report(decision, 1.0, terminated=True)
    finally:
        assert eager.stop() == 0
    assert rows_of(world.redis, policy, 1)  # put there before it stopped


def test_without_redis_nothing_can_be_tracked(tmp_path: Path) -> None:
    publish(PolicyRegistry(str(tmp_path / "policies")), linear_model())
    process = InferenceProcess(tmp_path / "policies", tmp_path / "log")
    try:
        assert process.client.act(STATE).action == 1
        with pytest.raises(PreconditionFailed, match="set TUTELAGE_REDIS_URL, or leave track out"):
            process.client.act(STATE, track=True)
        with pytest.raises(PreconditionFailed, match="set TUTELAGE_REDIS_URL"):
            process.client.report("0" * 16 + ".cartpole", 1.0)
    finally:
        process.stop()


def test_acting_goes_on_while_redis_is_away(tmp_path: Path) -> None:
    publish(PolicyRegistry(str(tmp_path / "policies")), linear_model())
    with EmbeddedRedis(tmp_path / "valkey") as server:
        process = InferenceProcess(tmp_path / "policies", tmp_path / "log", redis_url=server.url)
        try:
            _away_and_back(process.client, server)
        finally:
            assert process.stop() == 0
    assert process.records("not tracked")
    assert process.records("call failed") == []


def _away_and_back(client: Client, server: EmbeddedRedis) -> None:
    before = client.act(STATE, track=True)
    session = Session(client)
    session.act(STATE)
    server.stop()
    for _ in range(50):
        assert client.act(STATE, track=True).decision_id == ""
    assert session.act(STATE).decision_id == ""
    assert not session.report(STATE, 1.0)
    with pytest.raises(Unavailable):
        client.report(before, 1.0, terminated=True)
    server.start()
    deadline = time.monotonic() + 20
    while not client.act(STATE, track=True).decision_id:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.report(before, 1.0, terminated=True)
