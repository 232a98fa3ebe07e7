"""The tabular loop: step, choose what comes next, learn from both."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from services.trainer import environments
from services.trainer.algorithms.tabular import TabularLearner
from services.trainer.arrays import Arrays, joined, part
from services.trainer.config import TabularRun
from services.trainer.divergence import check_finite
from services.trainer.retraced import bring_back, where
from services.trainer.runs.episodes import EpisodeCounter
from services.trainer.runs.loop import LoopParts, TrainingLoop
from services.trainer.schedules import epsilons


class TabularLoop(TrainingLoop):
    """One run of Q-learning, SARSA or Expected SARSA. It begins by having the empty table judged,
    so that there is a version of before training to compare with."""

    def __init__(self, config: TabularRun, learner: TabularLearner, parts: LoopParts) -> None:
        self._config, self._learner, self._parts = config.tabular, learner, parts
        super().__init__(config, config.tabular.total_env_steps, parts, learner)
        self._envs: VectorEnv[Any, Any, Any] = environments.make_training(config)
        count = self._envs.num_envs
        self._states = self._envs.reset(seed=environments.seed_from(parts.generator))[0]
        self._actions = learner.choose(self._states, self._epsilon(), parts.generator)
        self._ended = np.zeros(count, dtype=bool)
        self._episodes = EpisodeCounter(count, parts.session)

    def run(self) -> bool:
        """See TrainingLoop."""
        if self.resumed is None:
            self.evaluate()
        return super().run()

    def under_way(self) -> Arrays:
        """See TrainingLoop."""
        kept = {"states": self._states, "actions": self._actions, "ended": self._ended}
        return kept | joined(environments=where(self._envs), episodes=self._episodes.arrays())

    def take_up(self, arrays: Arrays) -> None:
        """See TrainingLoop."""
        self._states, self._actions = arrays["states"].copy(), arrays["actions"].copy()
        self._ended = arrays["ended"].copy()
        bring_back(self._envs, part(arrays, "environments"), self._states)
        self._episodes.put_back(part(arrays, "episodes"))

    def step(self) -> None:
        """A step of each environment, and an update for each that was not being reset."""
        envs, learner, epsilon = self._envs, self._learner, self._epsilon()
        states, rewards, terminated, truncated, _ = envs.step(self._actions)
        actions = learner.choose(states, epsilon, self._parts.generator)
        live = ~self._ended
        errors = [
            learner.update(
                int(self._states[i]),
                int(self._actions[i]),
                float(rewards[i]),
                bool(terminated[i]),
                int(states[i]),
                int(actions[i]),
                epsilon,
            )
            for i in np.flatnonzero(live)
        ]
        self.env_steps += len(errors)
        self._episodes.add(self.env_steps, live, rewards, terminated | truncated)
        self._ended = live & (terminated | truncated)
        self._states, self._actions = states, actions
        if errors:
            size = float(np.abs(errors).mean())
            figures = {"td_error": size, "epsilon": epsilon}
            check_finite(figures, self._parts.checkpoints.steps)
            self._parts.session.metrics(self.env_steps, figures)

    def _epsilon(self) -> float:
        return float(epsilons(self.env_steps, self._config.epsilon, 1)[0])
