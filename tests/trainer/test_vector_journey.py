"""Runs whose actions are numbers or components: trained, published, served, asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inference_process import InferenceProcess

from services.common.action_space import Box
from services.trainer.config import parse
from services.trainer.heads import ClippedGaussian, TanhGaussian, head_of
from services.trainer.resources import Resources
from services.trainer.runs.execute import execute
from services.trainer.runs.store import RunStore
from tutelage import Client
from tutelage.v1 import policy_pb2, training_pb2

COMMON: dict[str, Any] = {
    "policy": "probe",
    "network": {"hidden": [8]},
    "evaluation": {"period": 10**6, "episodes": 2},
}
REPLAY = {"capacity": 1000, "min_replay_size": 64, "chunk_rows": 16}
RATES = {"total_env_steps": 160, "batch_size": 16}
RUNS: dict[str, dict[str, Any]] = {
    "sac": {
        "algorithm": "sac",
        "environment": {"id": "Pendulum-v1", "num_envs": 4},
        "replay": REPLAY,
        "sac": RATES,
    },
    "td3": {
        "algorithm": "td3",
        "environment": {"id": "Pendulum-v1", "num_envs": 4},
        "replay": REPLAY,
        "td3": RATES,
    },
    "sac of choices": {
        "algorithm": "sac",
        "environment": {"id": "CartPole-v1", "num_envs": 4},
        "replay": REPLAY,
        "sac": RATES,
    },
    "ppo": {
        "algorithm": "ppo",
        "environment": {"id": "Pendulum-v1", "num_envs": 4},
        "network": {"hidden": [8], "normalise_observations": True},
        "ppo": {"total_env_steps": 256, "normalise_rewards": True},
    },
    "a2c of components": {
        "algorithm": "a2c",
        "environment": {"id": "ProbePair-v0", "num_envs": 4},
        "a2c": {"total_env_steps": 256},
    },
}


@contextmanager
def served(content: dict[str, Any], resources: Resources, folder: Path) -> Iterator[Client]:
    """A service that serves what such a run publishes."""
    run = RunStore(folder / "runs").create("probe", parse(COMMON | content, "test"))
    assert execute(run, resources) == training_pb2.RUN_STATUS_SUCCEEDED
    process = InferenceProcess(folder / "policies", folder / "log")
    yield process.client
    process.stop()


def observed(client: Client) -> np.ndarray:
    size = client.policy("probe").spec.observation.shape[0]
    return np.random.default_rng(0).uniform(0, 1, (20, size)).astype(np.float32)


@pytest.mark.parametrize("name", list(RUNS))
def test_what_was_trained_is_served(name: str, resources: Resources, tmp_path: Path) -> None:
    with served(RUNS[name], resources, tmp_path) as client:
        spec = resources.registry.manifest("probe", 1).spec
        seen = observed(client)
        greedy = client.act_batch(seen, policy="probe", probabilities=True)
        head, parameters = head_of(spec), torch.tensor(greedy.parameters, dtype=torch.float32)
        if name == "td3":
            assert isinstance(spec.action, Box)
            assert (np.abs(greedy.actions) <= 2).all()
            np.testing.assert_array_equal(greedy.actions.ravel(), parameters.ravel())
            return
        np.testing.assert_allclose(greedy.actions, head.greedy(parameters), atol=1e-4)
        drawn = client.act_batch(seen, policy="probe", sample=True, seed=3)
        again = client.act_batch(seen, policy="probe", sample=True, seed=3)
        np.testing.assert_array_equal(drawn.actions, again.actions)
        actions = torch.from_numpy(drawn.actions)
        if isinstance(head, ClippedGaussian | TanhGaussian):
            assert (np.abs(drawn.actions) <= 2).all()
            actions = head.normalise(actions)
        theirs = head.log_probability(parameters, actions)
        np.testing.assert_allclose(drawn.log_probabilities, theirs, atol=5e-3)


def test_a_policy_tells_what_it_acts_in(resources: Resources, tmp_path: Path) -> None:
    with served(RUNS["sac"], resources, tmp_path) as client:
        spec = client.policy("probe").spec
        assert spec.distribution == policy_pb2.DISTRIBUTION_TANH_GAUSSIAN
        assert (list(spec.action.low), list(spec.action.high)) == ([-2], [2])
        action = client.act([1.0, 0, 0], policy="probe").action
        assert isinstance(action, np.ndarray)
        assert (action.shape, action.dtype) == ((1,), np.float32)
