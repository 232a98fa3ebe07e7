"""The on-policy loop: a rollout in memory, an update, evaluate. It never queues behind a replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from services.common.spec import PolicySpec
from services.trainer import environments
from services.trainer.algorithms.ppo import PPOLearner, RolloutBatch
from services.trainer.checkpoint import Checkpoint, CheckpointStore
from services.trainer.config import PPORun
from services.trainer.divergence import check_finite
from services.trainer.publishing import Publisher
from services.trainer.returns import generalised_advantages
from services.trainer.runs.session import RunSession


@dataclass(frozen=True)
class Parts:
    """What an on-policy run is put together from."""

    session: RunSession
    spec: PolicySpec
    learner: PPOLearner
    judge: Publisher
    checkpoints: CheckpointStore
    generator: np.random.Generator


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


class OnPolicyRun:
    """One run of PPO."""

    def __init__(self, config: PPORun, parts: Parts) -> None:
        self._config, self._parts = config, parts
        self.env_steps = 0
        self._restore()
        self._envs: VectorEnv[Any, Any, Any] = environments.make(config.environment)
        seed = environments.seed_from(parts.generator)
        self._observations = self._envs.reset(seed=seed)[0]
        self._ended = np.zeros(self._envs.num_envs, dtype=bool)
        self._returns = np.zeros(self._envs.num_envs)
        self._lengths = np.zeros(self._envs.num_envs, dtype=np.int64)

    def run(self) -> bool:
        """Train to the goal, to the end, or until asked to stop; True when it is finished."""
        config, session = self._config, self._parts.session
        total = config.ppo.total_env_steps
        evaluation_due = self._next(config.evaluation.period)
        checkpoint_due = self._next(config.checkpoint.period)
        while self.env_steps < total:
            if session.should_stop:
                self.save()
                return False
            self._improve()
            session.progress("training", self.env_steps, total, "env steps")
            if self.env_steps >= evaluation_due:
                evaluation_due = self._next(config.evaluation.period)
                if self._evaluate():
                    return True
            if self.env_steps >= checkpoint_due:
                checkpoint_due = self._next(config.checkpoint.period)
                self.save()
        session.progress("training", self.env_steps, total, "env steps", now=True)
        self._evaluate()
        return True

    def save(self) -> None:
        """Make the state durable."""
        parts = self._parts
        state = {
            "updates": parts.learner.updates,
            "episodes": parts.session.episodes,
            "generator": parts.generator.bit_generator.state,
            "judge": parts.judge.state(),
        }
        parts.checkpoints.save(Checkpoint(self.env_steps, parts.learner.tensors(), state))
        parts.session.checkpoint_saved(self.env_steps)

    def _restore(self) -> None:
        parts = self._parts
        checkpoint = parts.checkpoints.load_newest()
        if checkpoint is None:
            return
        parts.learner.restore(checkpoint.tensors, checkpoint.state["updates"])
        parts.generator.bit_generator.state = checkpoint.state["generator"]
        parts.judge.restore(checkpoint.state["judge"])
        parts.session.episodes = checkpoint.state["episodes"]
        self.env_steps = checkpoint.env_steps
        parts.session.say(f"resumed at {self.env_steps} env steps")

    def _improve(self) -> None:
        config, parts = self._config.ppo, self._parts
        rollout = self._roll_out(config.rollout_steps)
        parts.learner.anneal(min(self.env_steps / config.total_env_steps, 1.0))
        figures = parts.learner.update(self._batch(rollout), parts.generator)
        check_finite(figures, parts.checkpoints.steps())
        parts.session.metrics(self.env_steps, figures)

    def _roll_out(self, steps: int) -> Rollout:
        taken: list[tuple[npt.NDArray[Any], ...]] = []
        for _ in range(steps):
            observations, live = self._observations, ~self._ended
            choice = self._parts.learner.act(observations, self._parts.generator)
            self._observations, rewards, terminated, truncated, _ = self._envs.step(choice.actions)
            self._count(live, rewards, terminated | truncated)
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

    def _count(
        self, live: npt.NDArray[np.bool_], rewards: npt.NDArray[Any], over: npt.NDArray[np.bool_]
    ) -> None:
        self.env_steps += int(live.sum())
        self._returns += np.where(live, rewards, 0)
        self._lengths += live
        for i in np.flatnonzero(live & over):
            self._parts.session.episode(
                self.env_steps, float(self._returns[i]), int(self._lengths[i])
            )
            self._returns[i] = self._lengths[i] = 0

    def _batch(self, rollout: Rollout) -> RolloutBatch:
        config, shape = self._config.ppo, rollout.action.shape
        # In NEXT_STEP mode the observation after an end is the last of its own episode, so
        # one pass over T + 1 observations gives the values on both sides of each step.
        seen = np.concatenate([rollout.observation, rollout.last_observation[None]])
        flat = seen.reshape(-1, *self._parts.spec.observation.shape)
        values = self._parts.learner.values(flat).reshape(shape[0] + 1, shape[1])
        advantages = generalised_advantages(
            rollout.reward,
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

    def _evaluate(self) -> bool:
        learner = self._parts.learner
        return self._parts.judge.consider(learner.network, learner.greedy, self.env_steps)

    def _next(self, period: int) -> int:
        return (self.env_steps // period + 1) * period
