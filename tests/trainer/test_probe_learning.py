"""Learners find the values that probe environments have by their making. γ is 0.5.

The DQN family has a file of its own, `test_probe_dqn_family`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from learning_rig import dqn_config, learn_dqn

from services.trainer.resources import Resources

CLOSE = 0.1


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize(
    "changes", [{"n_step": 3}, {"bootstrap": "q-learning"}, {"n_step": 9, "bootstrap": "sarsa"}]
)
def test_dqn_discounts_whatever_its_targets(
    changes: dict[str, object], resources: Resources, tmp_path: Path
) -> None:
    # Rewards 1, 2, 3: worth 3 at the last step, 2 + 1.5 before it, 1 + 1.75 first.
    learner = learn_dqn(
        dqn_config("ProbeCorridor-v0", total_env_steps=800, **changes), resources, tmp_path
    )
    values = learner.q_values(column(0, 1, 2)).mean(axis=1)
    np.testing.assert_allclose(values, [2.75, 3.5, 3], atol=2 * CLOSE)


def test_dqn_learns_rewards_in_the_scale_it_was_given(resources: Resources, tmp_path: Path) -> None:
    learner = learn_dqn(dqn_config("ProbeReward-v0", reward_scale=2.0), resources, tmp_path)
    np.testing.assert_allclose(learner.q_values(column(0)), [[0.5, 0.5]], atol=CLOSE)
