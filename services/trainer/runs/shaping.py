"""The rewards that fine-tuning learns from: the environment's, people's, and a leash."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.trainer.config import RLHFRun
from services.trainer.networks import LeashedQNetwork
from services.trainer.reward.ensemble import RewardEnsemble
from services.trainer.runs.on_policy import Rollout


class Shaping:
    """The rewards that fine-tuning learns from.

    r' = w_env·r + w·r̂(s, a) - τ·log(π(a|s) / π₀(a|s)), with π₀ the deployed policy, and r̂ by
    how much the reward model likes a step better than the worst that π₀ does. Were r̂ negative
    for what π₀ does, ending the episode could be worth more than going on.

    Args:
        observations, actions: (n, *shape), (n,), of what π₀ does.
        step_reward: what the environment gives it for a step, in the mean.
    """

    def __init__(
        self,
        config: RLHFRun,
        actor: LeashedQNetwork,
        ensemble: RewardEnsemble,
        observations: npt.NDArray[Any],
        actions: npt.NDArray[Any],
        step_reward: float,
    ) -> None:
        self._config, self._actor, self._ensemble = config, actor, ensemble
        self._usual = 0.0
        self._usual = float(self.learned(observations, actions).mean())
        self._worst = float(self.learned(observations, actions).min())
        self._step_reward = step_reward

    @property
    def usual_value(self) -> float:
        """What π₀ would earn in r' from any state on, did it go on for ever."""
        config = self._config
        liked = -self._worst  # in the mean, by which it is above its worst
        earned = (
            config.environment_reward_weight * self._step_reward
            + config.learned_reward_weight * liked
        )
        return earned / config.tuning.reward_scale / (1 - config.tuning.discount)

    def learned(
        self, observations: npt.NDArray[Any], actions: npt.NDArray[Any]
    ) -> npt.NDArray[np.float32]:
        """By how much steps are liked better than π₀'s in the mean: (B, *shape), (B,) → (B,)"""
        liked = self._ensemble.reward(observations, actions, self._config.pessimism)
        return (liked - self._usual).astype(np.float32)

    def rewards(self, rollout: Rollout) -> npt.NDArray[np.float32]:
        """r' of a rollout's steps, scaled: (T, B)."""
        config, shape = self._config, rollout.action.shape
        observations = rollout.observation.reshape(-1, *rollout.observation.shape[2:])
        actions = rollout.action.reshape(-1)
        liked = self.learned(observations, actions).reshape(shape) - self._worst
        lead = rollout.log_probability - self._log_prior(observations, actions).reshape(shape)
        rewards: npt.NDArray[np.float32] = (
            config.environment_reward_weight * rollout.reward
            + config.learned_reward_weight * liked
            - config.leash.temperature * lead
        ) / np.float32(config.tuning.reward_scale)
        return rewards

    def _log_prior(
        self, observations: npt.NDArray[Any], actions: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        device = next(self._actor.parameters()).device
        with torch.inference_mode():
            log_prior = self._actor.log_prior(torch.from_numpy(observations).to(device))
        rows: npt.NDArray[np.float32] = log_prior.cpu().numpy()[np.arange(len(actions)), actions]
        return rows
