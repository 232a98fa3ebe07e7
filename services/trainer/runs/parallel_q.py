"""The loop of parallel Q-learning: a rollout by ε-greedy in memory, an update, evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from services.trainer import environments
from services.trainer.action_masks import Masks, masks_of
from services.trainer.algorithms.pqn import PQNLearner, QRollout
from services.trainer.arrays import Arrays, joined, like, part, plain
from services.trainer.config import PQNRun
from services.trainer.divergence import check_finite
from services.trainer.exploration import EpsilonGreedy
from services.trainer.retraced import bring_back, where
from services.trainer.runs.episodes import EpisodeCounter
from services.trainer.runs.loop import LoopParts, TrainingLoop
from services.trainer.schedules import epsilons, linear


class ParallelQRun(TrainingLoop):
    """One run of PQN."""

    def __init__(self, config: PQNRun, learner: PQNLearner, parts: LoopParts) -> None:
        self._config, self._learner, self._parts = config.pqn, learner, parts
        super().__init__(config, config.pqn.total_env_steps, parts, learner)
        self._envs: VectorEnv[Any, Any, Any] = environments.make_training(config)
        count = self._envs.num_envs
        self._masked = learner.network.spec.masked
        seed = environments.seed_from(parts.generator)
        self._observations, infos = self._envs.reset(seed=seed)
        self._masks = self._masks_in(infos)
        self._ended = np.zeros(count, dtype=bool)
        self._episodes = EpisodeCounter(count, parts.session)
        self._explorer = EpsilonGreedy(count, config.pqn.epsilon.repeat, parts.generator)

    def under_way(self) -> Arrays:
        """See TrainingLoop."""
        kept = {"observations": plain(self._observations), "ended": self._ended}
        if self._masks is not None:
            kept["masks"] = self._masks
        return kept | joined(
            environments=where(self._envs),
            episodes=self._episodes.arrays(),
            explorer=self._explorer.arrays(),
        )

    def take_up(self, arrays: Arrays) -> None:
        """See TrainingLoop."""
        self._observations = like(arrays["observations"], self._observations)
        self._ended = arrays["ended"].copy()
        self._masks = arrays["masks"].copy() if "masks" in arrays else None
        bring_back(self._envs, part(arrays, "environments"), self._observations)
        self._episodes.put_back(part(arrays, "episodes"))
        self._explorer.put_back(part(arrays, "explorer"))

    def step(self) -> None:
        """A rollout, and an update on it."""
        config, parts = self._config, self._parts
        rollout = self._roll_out()
        if config.final_learning_rate is not None:
            share = self.env_steps / config.total_env_steps
            self._learner.set_learning_rate(
                linear(share, config.learning_rate, config.final_learning_rate)
            )
        figures = self._learner.update(rollout, parts.generator)
        check_finite(figures, parts.checkpoints.steps)
        figures["epsilon"] = float(self._epsilons().mean())
        parts.session.metrics(self.env_steps, figures)

    def _roll_out(self) -> QRollout:
        taken: list[tuple[npt.NDArray[Any], ...]] = []
        allowed: list[Masks] = []
        for _ in range(self._config.rollout_steps):
            observations, masks, live = self._observations, self._masks, ~self._ended
            values = self._learner.q_values(observations)
            actions = self._explorer.choose(values, self._epsilons(), masks).actions
            self._observations, rewards, terminated, truncated, infos = self._envs.step(actions)
            self._masks = self._masks_in(infos)
            self.env_steps += int(live.sum())
            self._episodes.add(self.env_steps, live, rewards, terminated | truncated)
            self._ended = live & (terminated | truncated)
            paid = rewards.astype(np.float32)
            taken.append((observations, actions, paid, live & terminated, live & truncated, live))
            allowed += [] if masks is None else [masks]
        observations, *columns = (np.stack(column) for column in zip(*taken, strict=True))
        seen = np.concatenate([observations, self._observations[None]])
        rollout = QRollout(seen, *columns)
        if self._masks is None:
            return rollout
        return replace(rollout, mask=np.stack([*allowed, self._masks]))

    def _masks_in(self, infos: Mapping[str, Any]) -> Masks | None:
        if not self._masked:
            return None
        return masks_of(infos, self._envs.num_envs, self._learner.network.spec.actions)

    def _epsilons(self) -> npt.NDArray[np.float64]:
        return epsilons(self.env_steps, self._config.epsilon, self._envs.num_envs)
