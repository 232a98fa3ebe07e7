"""SAC of both kinds and TD3 find values and actions of probe environments. γ is 0.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_rig import COMMON, CPU, Indifferent, session_in

from services.trainer.algorithms.twin_critics import TwinCriticsLearner
from services.trainer.checkpoint import CheckpointStore
from services.trainer.config import parse
from services.trainer.resources import Resources
from services.trainer.runs import twin_critics
from services.trainer.runs.execute import twin_critics_learner
from services.trainer.runs.replay_loop import ReplayParts

CLOSE = 0.15
RATES = {
    "total_env_steps": 800,
    "learning_rate": 0.005,
    "batch_size": 32,
    "discount": 0.5,
    "target_tau": 0.05,
}
QUIET = {"initial_temperature": 1e-3, "learn_temperature": False}
VALUES = [
    ("ProbeReward", [0], [1]),
    ("ProbeDiscount", [0, 1], [0.5, 1]),
    ("ProbeEnds", [0, 1], [1, 2]),
]


def learn(
    algorithm: str, environment: str, resources: Resources, folder: Path, **changes: Any
) -> TwinCriticsLearner:
    quiet = QUIET if algorithm == "sac" else {"exploration_noise": 0.5}
    content = {
        **COMMON,
        "algorithm": algorithm,
        "environment": {"id": environment, "num_envs": 4},
        "replay": {"capacity": 2000, "min_replay_size": 64, "chunk_rows": 4},
        algorithm: RATES | quiet | changes,
    }
    config = parse(content, "test")
    assert config.algorithm in ("sac", "td3")
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    spec, learner = twin_critics_learner(config, CPU, generator)
    with session_in(folder) as session:
        parts = ReplayParts(
            session=session,
            resources=resources,
            run_id=f"probe-{folder.name}",
            attempt=1,
            spec=spec,
            judge=Indifferent(),
            checkpoints=CheckpointStore(folder / "checkpoints"),
            generator=generator,
        )
        assert twin_critics.run(config, learner, parts)
    return learner


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize(("name", "observations", "expected"), VALUES)
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_the_values_in_a_box(
    algorithm: str,
    name: str,
    observations: list[float],
    expected: list[float],
    resources: Resources,
    tmp_path: Path,
) -> None:
    learner = learn(algorithm, f"{name}Continuous-v0", resources, tmp_path)
    seen = torch.from_numpy(column(*observations, *observations))
    acted = torch.tensor([-0.5] * len(observations) + [0.5] * len(observations))[:, None]
    with torch.no_grad():
        values = learner.critics(torch.cat([seen, acted], dim=1)).squeeze(-1)
    np.testing.assert_allclose(values, [expected * 2] * 2, atol=CLOSE)


@pytest.mark.parametrize(("name", "observations", "expected"), VALUES)
def test_the_values_of_discrete_actions(
    name: str,
    observations: list[float],
    expected: list[float],
    resources: Resources,
    tmp_path: Path,
) -> None:
    learner = learn("sac", f"{name}-v0", resources, tmp_path)
    with torch.no_grad():
        values = learner.critics(torch.from_numpy(column(*observations)))
    wanted = np.repeat(np.array(expected)[None, :, None], 2, axis=0).repeat(2, axis=2)
    np.testing.assert_allclose(values, wanted, atol=CLOSE)


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_which_number_is_better(algorithm: str, resources: Resources, tmp_path: Path) -> None:
    learner = learn(algorithm, "ProbeActionContinuous-v0", resources, tmp_path)
    actions = learner.greedy(column(0, 1))
    np.testing.assert_allclose(actions[:, 0], [-0.5, 0.5], atol=CLOSE)


def test_which_discrete_action_is_better(resources: Resources, tmp_path: Path) -> None:
    learner = learn("sac", "ProbeAction-v0", resources, tmp_path)
    assert learner.greedy(column(0, 1)).tolist() == [0, 1]


def test_a_reward_two_steps_away_is_credited(resources: Resources, tmp_path: Path) -> None:
    learner = learn("sac", "ProbeCredit-v0", resources, tmp_path)
    assert learner.greedy(column(0)).tolist() == [1]
    again = learn("sac", "ProbeCredit-v0", resources, tmp_path, n_step=2)
    assert again.greedy(column(0)).tolist() == [1]


def test_the_temperature_holds_the_entropy(resources: Resources, tmp_path: Path) -> None:
    learner = learn(
        "sac",
        "ProbeReward-v0",
        resources,
        tmp_path,
        initial_temperature=0.5,
        learn_temperature=True,
        target_entropy_scale=0.5,
        total_env_steps=600,
    )
    temperature = learner.tensors()["temperature.log"].exp().item()
    assert temperature < 0.5  # the policy is as random as can be, more than was asked for
