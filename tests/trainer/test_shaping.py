"""What fine-tuning learns from, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_networks import q_network

from services.trainer.config import RLHFRun, load_preset
from services.trainer.networks import LeashedQNetwork
from services.trainer.runs.on_policy import Rollout
from services.trainer.runs.shaping import Shaping


class Known(torch.nn.Module):
    """Prefers action 1 by 3, so that π₀ = (0.0474, 0.9526)."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, 3.0]]).expand(len(observations), 2)


class LikesPlaces:
    """A reward of the first element, and 10 more for action 1; pessimism takes off itself."""

    def reward(self, observations: np.ndarray, actions: np.ndarray, pessimism: float) -> np.ndarray:
        return (observations[:, 0] + 10 * actions - pessimism).astype(np.float32)


def shaping(**changes: object) -> Shaping:
    config = load_preset("cartpole-rlhf")
    assert isinstance(config, RLHFRun)
    tuning = config.tuning.model_copy(update={"reward_scale": changes.pop("reward_scale", 1.0)})
    leash = config.leash.model_copy(update={"temperature": changes.pop("temperature", 0.0)})
    config = config.model_copy(update={"tuning": tuning, "leash": leash, **changes})
    actor = LeashedQNetwork(
        Known(), q_network(), temperature=1.0, prior_temperature=1.0, floor=-4.0
    )
    usual = np.array([[1, 0, 0, 0], [3, 0, 0, 0]], np.float32)  # is worth 2 in the mean
    return Shaping(config, actor, LikesPlaces(), usual, np.zeros(2, np.int64), step_reward=1.5)


def rollout() -> Rollout:
    """Two steps of two environments."""
    observation = np.zeros((2, 2, 4), np.float32)
    observation[:, :, 0] = [[0, 2], [5, -1]]
    never = np.zeros((2, 2), dtype=bool)
    return Rollout(
        last_observation=observation[-1],
        observation=observation,
        action=np.array([[0, 0], [1, 0]]),
        log_probability=np.log([[0.5, 0.9], [0.25, 1.0]]).astype(np.float32),
        reward=np.array([[1, 2], [3, 4]], np.float32),
        terminated=never,
        truncated=never,
        live=~never,
    )


def test_the_worst_that_the_deployed_policy_does_is_worth_nothing() -> None:
    made = shaping(environment_reward_weight=0.0, learned_reward_weight=1.0)
    np.testing.assert_allclose(made.rewards(rollout()), [[-1, 1], [14, -2]])
    assert made.learned(np.full((1, 4), 2, np.float32), np.zeros(1, np.int64)).tolist() == [0]


def test_what_the_deployed_policy_earns_for_ever() -> None:
    made = shaping(environment_reward_weight=2.0, learned_reward_weight=6.0, reward_scale=10.0)
    # 2·1.5 + 6·1 a step, scaled by 10, with γ = 0.99.
    assert made.usual_value == pytest.approx(90)


def test_rewards_are_weighed_and_scaled() -> None:
    made = shaping(environment_reward_weight=2.0, learned_reward_weight=0.5, reward_scale=10.0)
    np.testing.assert_allclose(made.rewards(rollout()), [[0.15, 0.45], [1.3, 0.7]], rtol=1e-6)
    assert made.rewards(rollout()).dtype == np.float32


def test_the_leash_takes_off_what_is_done_more_often_than_before() -> None:
    made = shaping(environment_reward_weight=0.0, learned_reward_weight=0.0, temperature=2.0)
    prior = np.array([[-3.0486, -3.0486], [-0.0486, -3.0486]])
    leads = rollout().log_probability - prior
    np.testing.assert_allclose(made.rewards(rollout()), -2 * leads, atol=1e-3)


def test_pessimism_about_everything_alike_changes_nothing() -> None:
    rewards = shaping(environment_reward_weight=0.0, learned_reward_weight=1.0, pessimism=7.0)
    np.testing.assert_allclose(rewards.rewards(rollout()), [[-1, 1], [14, -2]])


@pytest.mark.parametrize("seed", range(3))
def test_the_leash_pulls_to_the_deployed_policy_and_no_further(seed: int) -> None:
    """Of r' the mean over π is the negative KL divergence, greatest where π is π₀."""
    made = shaping(environment_reward_weight=0.0, learned_reward_weight=0.0, temperature=1.0)
    shares = np.random.default_rng(seed).uniform(0.01, 0.99, 50)
    prior = np.exp(-0.0486)

    def mean_reward(share: float) -> float:
        one = rollout()
        chosen = [np.log([[1 - share, share]] * 2), np.array([[0, 1]] * 2)]
        of = Rollout(
            one.last_observation,
            one.observation,
            chosen[1],
            chosen[0].astype(np.float32),
            one.reward,
            one.terminated,
            one.truncated,
            one.live,
        )
        return float(made.rewards(of)[0] @ [1 - share, share])

    assert mean_reward(prior) == pytest.approx(0, abs=1e-3)
    assert all(mean_reward(share) <= 1e-3 for share in shares)
