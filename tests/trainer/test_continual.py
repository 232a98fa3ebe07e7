"""Runs that learn from what the clients of a policy reported, in a real Valkey."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from poor_policy import publish_poor
from tiny_policies import CARTPOLE, linear_model
from tiny_policies import publish as publish_tiny
from traffic import Traffic

from services.common.errors import InvalidConfig
from services.common.spec import PolicySpec
from services.trainer.config import EnvironmentConfig, QNetworkConfig, parse
from services.trainer.resources import Resources
from services.trainer.runs.execute import execute, values_spec
from services.trainer.runs.history import HistoryReader
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunFolder, RunStore
from tutelage.v1 import training_pb2 as pb

ENVIRONMENT = "ProbeCredit-v0"
HIDDEN = QNetworkConfig(hidden=(16,))
SUCCEEDED, STOPPED, FAILED = (
    pb.RUN_STATUS_SUCCEEDED,
    pb.RUN_STATUS_STOPPED,
    pb.RUN_STATUS_FAILED,
)


@dataclass
class World:
    """A policy, its replay, and runs that go on with it."""

    resources: Resources
    runs: RunStore
    policy: str = field(default_factory=lambda: f"probe-{uuid.uuid4().hex[:8]}")

    @property
    def spec(self) -> PolicySpec:
        return values_spec(EnvironmentConfig(id=ENVIRONMENT))

    def run(self, **changes: Any) -> RunFolder:
        content: dict[str, Any] = {
            "algorithm": "dqn-continual",
            "policy": self.policy,
            "environment": {"id": ENVIRONMENT},
            "network": {"hidden": [16]},
            "replay": {"min_replay_size": 50},
            "evaluation": {"period": 500, "episodes": 4},
            "checkpoint": {"period": 500},
            "dqn": {"total_env_steps": 1000, "learning_rate": 0.01, "target_update_period": 20},
        }
        content = {**content, **changes}
        return self.runs.create("continual", parse(content, "test"))

    def execute(self, folder: RunFolder, **more: Any) -> pb.RunStatus.ValueType:
        return execute(folder, self.resources, **more)

    def traffic(self, steps: int) -> None:
        client = Traffic(self.resources.redis, self.policy, self.spec, ENVIRONMENT)
        client.steps(steps)

    def publish_poor(self, config: QNetworkConfig = HIDDEN, mean_return: float = 0.0) -> None:
        publish_poor(self.resources.registry, self.policy, self.spec, config, mean_return)


@pytest.fixture
def world(resources: Resources, tmp_path: Path) -> World:
    return World(resources, RunStore(tmp_path / "runs"))


def events(folder: RunFolder, kind: str) -> list[Any]:
    found = HistoryReader(folder.history).read()
    return [getattr(e, kind) for e in found if e.WhichOneof("event") == kind]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_poor_policy_gets_better_by_what_others_report(world: World) -> None:
    world.publish_poor()
    world.traffic(1000)
    folder = world.run()
    assert world.execute(folder) == SUCCEEDED

    (published,) = events(folder, "policy_published")
    assert (published.version, published.alias) == (2, "stable")
    manifest = world.resources.registry.manifest(world.policy, 2)
    assert manifest.evaluation.mean_return == 1.0
    assert manifest.algorithm == "dqn-continual"
    assert events(folder, "progress")[-1].done == 1000


def test_a_version_that_is_no_better_is_not_published(world: World) -> None:
    world.publish_poor(mean_return=1.0)
    world.traffic(600)
    folder = world.run(dqn={"total_env_steps": 600, "learning_rate": 0.01})
    assert world.execute(folder) == SUCCEEDED
    assert events(folder, "policy_published") == []


def test_it_waits_for_outcomes_and_goes_on_where_it_stopped(world: World) -> None:
    folder = world.run(start_alias=None, dqn={"total_env_steps": 300})
    sessions: list[RunSession] = []
    statuses: list[pb.RunStatus.ValueType] = []

    def work() -> None:
        statuses.append(world.execute(folder, on_session=sessions.append))

    def begin() -> threading.Thread:
        sessions.clear()
        thread = threading.Thread(target=work)
        thread.start()
        until(lambda: sessions)
        return thread

    thread = begin()
    until(lambda: any("waiting for outcomes" in m.text for m in events(folder, "message")))
    sessions[0].stop()
    thread.join()

    thread = begin()
    world.traffic(200)
    until(lambda: any(p.done == 200 for p in events(folder, "progress")))
    sessions[0].stop()
    thread.join()

    thread = begin()
    world.traffic(100)
    thread.join()
    assert statuses == [STOPPED, STOPPED, SUCCEEDED]
    assert "resumed at 200 env steps" in [m.text for m in events(folder, "message")]
    assert [c.env_steps for c in events(folder, "checkpoint_saved")] == [200, 300]


def test_a_version_without_action_values_cannot_be_trained_on(world: World) -> None:
    world.policy = "cartpole"
    publish_tiny(world.resources.registry, linear_model())
    folder = world.run()
    assert world.execute(folder) == FAILED
    (reason,) = [s.reason for s in events(folder, "status_changed") if s.reason]
    assert reason.startswith("cartpole version 1, by dqn, has no action values to train on from")
    assert reason.endswith("start_alias null")


def test_a_version_of_another_network_cannot_be_trained_on(world: World) -> None:
    world.publish_poor(QNetworkConfig(hidden=(8,)))
    folder = world.run()
    assert world.execute(folder) == FAILED
    (reason,) = [s.reason for s in events(folder, "status_changed") if s.reason]
    assert "has another network than this run" in reason


def test_the_replay_of_another_kind_of_policy_is_refused(world: World) -> None:
    client = Traffic(world.resources.redis, world.policy, CARTPOLE, "CartPole-v1")
    client.steps(5)
    folder = world.run(start_alias=None)
    assert world.execute(folder) == FAILED
    (reason,) = [s.reason for s in events(folder, "status_changed") if s.reason]
    assert "is it the environment that the policy acts in?" in reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"deterministic": True}, "what clients report meanwhile cannot be repeated"),
        ({"dqn": {"bootstrap": "sarsa"}}, "clients choose theirs: use q-learning or double"),
        ({"dqn": {"epsilon": {"end": 0.5}}}, "dqn.epsilon means nothing here"),
        ({"replay": {"min_replay_size": 9, "capacity": 8}}, "never reached with"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], reason: str) -> None:
    content = {
        "algorithm": "dqn-continual",
        "policy": "p",
        "environment": {"id": "CartPole-v1"},
        **change,
    }
    with pytest.raises(InvalidConfig, match=reason):
        parse(content, "test")
