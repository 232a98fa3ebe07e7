"""The loop closed: a served policy gets better by what its own clients report."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from inference_process import InferenceProcess
from poor_policy import publish_poor

from services.trainer.config import EnvironmentConfig, QNetworkConfig, parse
from services.trainer.resources import Resources
from services.trainer.runs.execute import execute, values_spec
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunStore
from tutelage import Client, Session
from tutelage.v1 import training_pb2

ENVIRONMENT = "ProbeCredit-v0"  # two steps, and a reward for action 1 in both
POLICY = "credit"
CONTINUAL: dict[str, Any] = {
    "algorithm": "dqn-continual",
    "policy": POLICY,
    "environment": {"id": ENVIRONMENT},
    "network": {"hidden": [16]},
    "replay": {"min_replay_size": 100},
    "evaluation": {"period": 200, "episodes": 4},
    "dqn": {"learning_rate": 0.01, "target_update_period": 20, "n_step": 2},
}
MOST_STEPS = 20_000


@pytest.fixture
def service(resources: Resources, tmp_path: Path) -> Any:
    spec = values_spec(EnvironmentConfig(id=ENVIRONMENT))
    publish_poor(resources.registry, POLICY, spec, QNetworkConfig(hidden=(16,)))
    log = tmp_path / "log"
    process = InferenceProcess(tmp_path / "policies", log, redis_url=resources.redis_url)
    yield process
    assert process.stop() == 0


def played(client: Client) -> float:
    """The return of a greedy episode."""
    env, total, over = gym.make(ENVIRONMENT), 0.0, False
    observation, _ = env.reset()
    while not over:
        action = client.act(observation, policy=POLICY).action
        observation, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
    return total


def test_a_served_policy_learns_from_its_own_traffic(
    service: InferenceProcess, resources: Resources, tmp_path: Path
) -> None:
    assert played(service.client) == 0
    folder = RunStore(tmp_path / "runs").create("continual", parse(CONTINUAL, "test"))
    sessions: list[RunSession] = []
    statuses: list[Any] = []
    run = threading.Thread(
        target=lambda: statuses.append(execute(folder, resources, on_session=sessions.append))
    )
    run.start()
    versions = explore(service.client, until_version=2)
    assert versions == [1, 2]
    sessions[0].stop()
    run.join()

    assert statuses == [training_pb2.RUN_STATUS_STOPPED]
    assert resources.registry.manifest(POLICY, 2).run_id == folder.run_id
    assert resources.registry.aliases(POLICY)["stable"].version == 2
    assert played(service.client) == 1


def explore(client: Client, until_version: int) -> list[int]:
    """Act ε-greedily and report, until a version answers; the versions that did."""
    env, session, versions = gym.make(ENVIRONMENT), Session(client, policy=POLICY), [1]
    observation, _ = env.reset(seed=1)
    for step in range(MOST_STEPS):
        decision = session.act(observation, epsilon=0.5, seed=step)
        if decision.version not in versions:
            versions.append(decision.version)
        if until_version in versions:
            break
        observation, reward, terminated, truncated, _ = env.step(decision.action)
        session.report(observation, float(reward), terminated, truncated)
        if terminated or truncated:
            observation, _ = env.reset()
    return versions
