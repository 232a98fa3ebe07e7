"""Each member of the DQN family finds the values that probe environments have. γ is 0.5.

That of a constant is among those of ProbeEnds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning_rig import dqn_config, learn_dqn, learn_pqn, pqn_config

from services.trainer.algorithms.dqn import DQNLearner
from services.trainer.resources import Resources

CLOSE = 0.1
NOISY_CLOSE = 0.2  # noise goes down slowly
SOFT = {"target_tau": 0.1, "target_update_period": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "double": {},
    "plain": {"bootstrap": "q-learning"},
    "soft target": SOFT,
    "l1 loss, clipped by value": {
        "loss": "l1",
        "max_gradient_norm": None,
        "max_gradient_value": 1.0,
    },
    "dueling": {"network": {"dueling": True}},
    "quantiles": {"network": {"quantiles": 5}},
    "noisy": {"network": {"noisy": True}, "total_env_steps": 960},
    "prioritised": {"priorities": {}},
    "n-step": {"n_step": 3},
    "sarsa": {"bootstrap": "sarsa"},
    "expected sarsa": {"bootstrap": "expected-sarsa"},
    "all at once": {
        "network": {"dueling": True, "quantiles": 5},
        "priorities": {},
        "n_step": 2,
        **SOFT,
    },
}
PROBES = {
    "ProbeDiscount-v0": ([0, 1], [[0.5, 0.5], [1, 1]]),
    "ProbeAction-v0": ([0, 1], [[1, 0], [0, 1]]),
    "ProbeCredit-v0": ([0, 1, 2], [[0, 0.5], [0, 0], [1, 1]]),
    "ProbeEnds-v0": ([0, 1], [[1, 1], [2, 2]]),
}


def learnt(
    environment: str, variant: dict[str, Any], resources: Resources, folder: Path
) -> DQNLearner:
    return learn_dqn(dqn_config(environment, **variant), resources, folder)


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize("environment", PROBES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_values_are_found(
    variant: str, environment: str, resources: Resources, tmp_path: Path
) -> None:
    observations, expected = PROBES[environment]
    learner = learnt(environment, VARIANTS[variant], resources, tmp_path)
    values = learner.q_values(column(*observations))
    close = NOISY_CLOSE if learner.network.config.noisy else CLOSE
    np.testing.assert_allclose(values, expected, atol=close)


MASKED = [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    "variant", ["double", "plain", "quantiles", "n-step", "sarsa", "expected sarsa", "all at once"]
)
def test_masks_are_obeyed_in_acting_and_in_targets(
    variant: str, resources: Resources, tmp_path: Path
) -> None:
    # Who took the forbidden action's value for the state's would find γ at 0.
    learner = learnt("ProbeMask-v0", VARIANTS[variant], resources, tmp_path)
    np.testing.assert_allclose(learner.q_values(column(0, 1)), MASKED, atol=CLOSE)


def test_masks_in_observations_are_obeyed_too(resources: Resources, tmp_path: Path) -> None:
    learner = learnt("ProbeMaskDict-v0", {}, resources, tmp_path)
    np.testing.assert_allclose(learner.q_values(column(0, 1)), MASKED, atol=CLOSE)


def test_pqn_obeys_masks(tmp_path: Path) -> None:
    learner = learn_pqn(pqn_config("ProbeMask-v0", trace=0.0), tmp_path)
    np.testing.assert_allclose(learner.q_values(column(0, 1)), MASKED, atol=CLOSE)


@pytest.mark.parametrize(
    ("bootstrap", "first"),
    [("q-learning", 0.5), ("double", 0.5), ("sarsa", 0.25), ("expected-sarsa", 0.25)],
)
def test_the_bootstrap_says_whose_values_they_are(
    bootstrap: str, first: float, resources: Resources, tmp_path: Path
) -> None:
    # Everything is random: the second step pays ½ to who goes on so, 1 to the greedy.
    learner = learnt("ProbeChoice-v0", {"bootstrap": bootstrap}, resources, tmp_path)
    values = learner.q_values(column(0, 1))
    np.testing.assert_allclose(values, [[first, first], [0, 1]], atol=CLOSE)


def test_noise_explores_without_epsilon(resources: Resources, tmp_path: Path) -> None:
    greedy = {"epsilon": {"start": 0.0, "end": 0.0}, "network": {"noisy": True}}
    learner = learnt("ProbeAction-v0", greedy, resources, tmp_path)
    assert learner.greedy(column(0, 1)).tolist() == [0, 1]


@pytest.mark.parametrize("environment", PROBES)
@pytest.mark.parametrize("trace", [0.0, 0.65])
def test_pqn_finds_the_values(environment: str, trace: float, tmp_path: Path) -> None:
    observations, expected = PROBES[environment]
    learner = learn_pqn(pqn_config(environment, trace=trace), tmp_path)
    np.testing.assert_allclose(learner.q_values(column(*observations)), expected, atol=CLOSE)


def test_pqn_learns_what_the_greedy_policy_is_worth(tmp_path: Path) -> None:
    # With λ = 0; returns that look further are those of what was done, here at random.
    learner = learn_pqn(pqn_config("ProbeChoice-v0", trace=0.0), tmp_path)
    np.testing.assert_allclose(learner.q_values(column(0, 1)), [[0.5, 0.5], [0, 1]], atol=CLOSE)
