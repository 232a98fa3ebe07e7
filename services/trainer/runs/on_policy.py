"""The on-policy loop: a rollout in memory, an update, evaluate. It never queues behind a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from services.trainer import environments
from services.trainer.algorithms.actor_critic import ActorCriticLearner, RolloutBatch
from services.trainer.arrays import Arrays, joined, like, part, plain
from services.trainer.config import OnPolicyConfig, TrainingConfig
from services.trainer.divergence import check_acting, check_finite
from services.trainer.normalising import RewardScaler
from services.trainer.retraced import bring_back, where
from services.trainer.returns import generalised_advantages
from services.trainer.runs.episodes import EpisodeCounter
from services.trainer.runs.loop import LoopParts, TrainingLoop


@dataclass(frozen=True)
class Rollout:
    """T steps of B environments. `live` is false where an environment was being reset."""

    last_observation: npt.NDArray[Any]  # (B, *shape) after the last step
    observation: npt.NDArray[Any]  # (T, B, *shape)
    action: npt.NDArray[Any]  # (T, B, …) in the units of the policy's head
    log_probability: npt.NDArray[np.float32]  # (T, B), as all that follow
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
    """One run of PPO or A2C.

    Args:
        config: of the run, of which `rates` says how it learns.
        shaping: of the rewards to learn from; None: the environment's.
    """

    def __init__(
        self,
        config: TrainingConfig,
        rates: OnPolicyConfig,
        learner: ActorCriticLearner,
        parts: LoopParts,
        shaping: Shaping | None = None,
    ) -> None:
        self._rates, self._learner, self._parts = rates, learner, parts
        self._shaping = shaping
        self._scaler = None
        if self._rates.normalise_rewards:
            self._scaler = RewardScaler(config.environment.num_envs, self._rates.discount)
        super().__init__(config, self._rates.total_env_steps, parts, learner)
        self._envs: VectorEnv[Any, Any, Any] = environments.make_training(config)
        seed = environments.seed_from(parts.generator)
        self._observations = self._envs.reset(seed=seed)[0]
        self._ended = np.zeros(self._envs.num_envs, dtype=bool)
        self._episodes = EpisodeCounter(self._envs.num_envs, parts.session)

    def state(self) -> dict[str, Any]:
        """See TrainingLoop."""
        return {} if self._scaler is None else {"rewards": self._scaler.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See TrainingLoop."""
        if self._scaler is not None:
            self._scaler.restore(state["rewards"])
            self._learner.value_scale = float(self._scaler.deviation)

    def under_way(self) -> Arrays:
        """See TrainingLoop."""
        scaler = {} if self._scaler is None else self._scaler.arrays()
        kept = {"observations": plain(self._observations), "ended": self._ended}
        environments, episodes = where(self._envs), self._episodes.arrays()
        return kept | joined(environments=environments, episodes=episodes, scaler=scaler)

    def take_up(self, arrays: Arrays) -> None:
        """See TrainingLoop."""
        self._observations = like(arrays["observations"], self._observations)
        self._ended = arrays["ended"].copy()
        bring_back(self._envs, part(arrays, "environments"), self._observations)
        self._episodes.put_back(part(arrays, "episodes"))
        if self._scaler is not None:
            self._scaler.put_back(part(arrays, "scaler"))

    def step(self) -> None:
        """A rollout, and an update on it."""
        rates, parts, learner = self._rates, self._parts, self._learner
        rollout = self._roll_out(rates.rollout_steps)
        learner.anneal(min(self.env_steps / rates.total_env_steps, 1.0))
        figures = learner.update(self._batch(rollout), parts.generator)
        # Only now: what acted and what learns from it must see the same.
        learner.observe(rollout.observation[rollout.live])
        if figures:
            check_finite(figures, parts.checkpoints.steps)
            parts.session.metrics(self.env_steps, figures)

    def _roll_out(self, steps: int) -> Rollout:
        learner, generator = self._learner, self._parts.generator
        taken: list[tuple[npt.NDArray[Any], ...]] = []
        for _ in range(steps):
            observations, live = self._observations, ~self._ended
            parameters = learner.parameters(observations)
            if not taken:  # nobody must act on what is no number
                check_acting(parameters, self._parts.checkpoints.steps)
            actions = learner.head.draw(parameters, generator)
            acted = learner.head.to_environment(actions)
            self._observations, rewards, terminated, truncated, _ = self._envs.step(acted)
            over = terminated | truncated
            self.env_steps += int(live.sum())
            self._episodes.add(self.env_steps, live, rewards, over)
            self._ended = live & over
            ends = live & terminated, live & truncated
            taken.append((observations, parameters, actions, rewards, *ends, live))
        columns = (np.stack(column) for column in zip(*taken, strict=True))
        seen, given, chosen, paid, *rest = columns
        chances = learner.log_probabilities(*(a.reshape(-1, *a.shape[2:]) for a in (given, chosen)))
        chances = chances.reshape(paid.shape)
        return Rollout(self._observations, seen, chosen, chances, paid.astype(np.float32), *rest)

    def _batch(self, rollout: Rollout) -> RolloutBatch:
        rates, shape, live = self._rates, rollout.reward.shape, rollout.live
        ended = rollout.terminated | rollout.truncated
        # In NEXT_STEP mode the observation after an end is the last of its own episode, so
        # one pass over T + 1 observations gives the values on both sides of each step.
        seen = np.concatenate([rollout.observation, rollout.last_observation[None]])
        flat = seen.reshape(-1, *rollout.observation.shape[2:])
        values = self._learner.values(flat).reshape(shape[0] + 1, shape[1])
        rewards = rollout.reward if self._shaping is None else self._shaping.rewards(rollout)
        if self._scaler is not None:
            rewards = self._scaler.scale(rewards, ended, live)
            self._learner.value_scale = float(self._scaler.deviation)
        advantages = generalised_advantages(
            rewards,
            values[:-1],
            values[1:],
            rollout.terminated,
            ended,
            rates.discount,
            rates.gae_lambda,
        )
        return RolloutBatch(
            observation=rollout.observation[live],
            action=rollout.action[live],
            log_probability=rollout.log_probability[live],
            advantage=advantages[live],
            value_target=(advantages + values[:-1])[live],
        )
