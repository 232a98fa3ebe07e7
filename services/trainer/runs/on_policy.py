"""The on-policy loop: a rollout in memory, an update, evaluate. It never queues behind a replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from services.common.spec import PolicySpec
from services.trainer import environments
from services.trainer.algorithms.ppo import PPOLearner, RolloutBatch
from services.trainer.config import PPOConfig, TrainingConfig
from services.trainer.divergence import check_finite
from services.trainer.returns import generalised_advantages
from services.trainer.runs.episodes import EpisodeCounter
from services.trainer.runs.loop import LoopParts, TrainingLoop


@dataclass(frozen=True)
class Rollout:
    """T steps of B environments. `live` is false where an environment was being reset."""

    last_observation: npt.NDArray[Any]  # (B, *shape) after the last step
    observation: npt.NDArray[Any]  # (T, B, *shape)
    action: npt.NDArray[np.int64]  # (T, B), as all that follow
    log_probability: npt.NDArray[np.float32]
    reward: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    live: npt.NDArray[np.bool_]


class Shaping(Protocol):
    """Puts other rewards in the place of the environment's."""

    def rewards(self, rollout: Rollout) -> npt.NDArray[np.float32]:
        """(T, B)"""
        ...


class OnPolicyRun(TrainingLoop):
    """One run of PPO.

    Args:
        config: of the run, of which `ppo` says how it learns.
        shaping: of the rewards to learn from; None: the environment's.
    """

    def __init__(
        self,
        config: TrainingConfig,
        ppo: PPOConfig,
        spec: PolicySpec,
        learner: PPOLearner,
        parts: LoopParts,
        shaping: Shaping | None = None,
    ) -> None:
        self._config, self._spec, self._shaping = ppo, spec, shaping
        self._learner, self._parts = learner, parts
        super().__init__(config, ppo.total_env_steps, parts, learner)
        self._envs: VectorEnv[Any, Any, Any] = environments.make(config.environment)
        seed = environments.seed_from(parts.generator)
        self._observations = self._envs.reset(seed=seed)[0]
        self._ended = np.zeros(self._envs.num_envs, dtype=bool)
        self._episodes = EpisodeCounter(self._envs.num_envs, parts.session)

    def step(self) -> None:
        """A rollout, and an update on it."""
        config, parts, learner = self._config, self._parts, self._learner
        rollout = self._roll_out(config.rollout_steps)
        learner.anneal(min(self.env_steps / config.total_env_steps, 1.0))
        figures = learner.update(self._batch(rollout), parts.generator)
        check_finite(figures, parts.checkpoints.steps())
        parts.session.metrics(self.env_steps, figures)

    def _roll_out(self, steps: int) -> Rollout:
        taken: list[tuple[npt.NDArray[Any], ...]] = []
        for _ in range(steps):
            observations, live = self._observations, ~self._ended
            choice = self._learner.act(observations, self._parts.generator)
            self._observations, rewards, terminated, truncated, _ = self._envs.step(choice.actions)
            self.env_steps += int(live.sum())
            self._episodes.add(self.env_steps, live, rewards, terminated | truncated)
            self._ended = live & (terminated | truncated)
            taken.append(
                (
                    observations,
                    choice.actions,
                    choice.log_probabilities,
                    rewards.astype(np.float32),
                    live & terminated,
                    live & truncated,
                    live,
                )
            )
        taken_columns = tuple(np.stack(column) for column in zip(*taken, strict=True))
        return Rollout(self._observations, *taken_columns)

    def _batch(self, rollout: Rollout) -> RolloutBatch:
        config, shape = self._config, rollout.action.shape
        # In NEXT_STEP mode the observation after an end is the last of its own episode, so
        # one pass over T + 1 observations gives the values on both sides of each step.
        seen = np.concatenate([rollout.observation, rollout.last_observation[None]])
        flat = seen.reshape(-1, *self._spec.observation.shape)
        values = self._learner.values(flat).reshape(shape[0] + 1, shape[1])
        rewards = rollout.reward if self._shaping is None else self._shaping.rewards(rollout)
        advantages = generalised_advantages(
            rewards,
            values[:-1],
            values[1:],
            rollout.terminated,
            rollout.terminated | rollout.truncated,
            config.discount,
            config.gae_lambda,
        )
        live = rollout.live
        return RolloutBatch(
            observation=rollout.observation[live],
            action=rollout.action[live],
            log_probability=rollout.log_probability[live],
            advantage=advantages[live],
            value_target=(advantages + values[:-1])[live],
        )
