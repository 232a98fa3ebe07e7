"""PPO and A2C find the values and actions of probe environments, of every kind. γ is 0.5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning_rig import a2c_config, learn_on_policy, ppo_config

CLOSE = 0.2
ALGORITHMS = [ppo_config, a2c_config]
Config = Callable[..., Any]


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize("config", ALGORITHMS)
@pytest.mark.parametrize(
    ("environment", "observations", "expected"),
    [
        ("ProbeReward-v0", [0], [1]),
        ("ProbeDiscount-v0", [0, 1], [0.5, 1]),
        ("ProbeTruncation-v0", [0], [2]),
        ("ProbeEnds-v0", [0, 1], [1, 2]),
        ("ProbeEndsContinuous-v0", [0, 1], [1, 2]),
    ],
)
def test_the_values(
    config: Config,
    environment: str,
    observations: list[float],
    expected: list[float],
    tmp_path: Path,
) -> None:
    learner = learn_on_policy(config(environment), tmp_path)
    np.testing.assert_allclose(learner.values(column(*observations)), expected, atol=CLOSE)


@pytest.mark.parametrize("config", ALGORITHMS)
@pytest.mark.parametrize("environment", ["ProbeAction-v0", "ProbeCredit-v0"])
def test_which_action_is_better(config: Config, environment: str, tmp_path: Path) -> None:
    learner = learn_on_policy(config(environment), tmp_path)
    wanted = {"ProbeAction-v0": (column(0, 1), [0, 1]), "ProbeCredit-v0": (column(0), [1])}
    seen, best = wanted[environment]
    parameters = np.repeat(learner.parameters(seen), 100, axis=0)
    drawn = learner.head.draw(parameters, np.random.default_rng(0))
    assert (drawn == np.repeat(best, 100)).mean() > 0.9
    assert learner.greedy(seen).tolist() == best


@pytest.mark.parametrize("config", ALGORITHMS)
def test_which_number_is_better(config: Config, tmp_path: Path) -> None:
    learner = learn_on_policy(config("ProbeActionContinuous-v0"), tmp_path)
    actions = learner.greedy(column(0, 1))
    assert actions.shape == (2, 1)
    np.testing.assert_allclose(actions[:, 0], [-0.5, 0.5], atol=CLOSE)


@pytest.mark.parametrize("config", ALGORITHMS)
def test_which_components_are_better(config: Config, tmp_path: Path) -> None:
    changes = {"total_env_steps": 24000} if config is a2c_config else {"total_env_steps": 4000}
    learner = learn_on_policy(config("ProbePair-v0", **changes), tmp_path)
    seen = np.array([[0, 0], [1, 0], [0, 2], [1, 1]], np.float32)
    np.testing.assert_array_equal(learner.greedy(seen), seen)


def test_rewards_and_observations_may_be_normalised(tmp_path: Path) -> None:
    content = ppo_config("ProbeActionContinuous-v0", normalise_rewards=True).model_dump()
    content["network"]["normalise_observations"] = True
    learner = learn_on_policy(type(ppo_config("ProbeReward-v0")).model_validate(content), tmp_path)
    np.testing.assert_allclose(learner.greedy(column(0, 1))[:, 0], [-0.5, 0.5], atol=CLOSE)
