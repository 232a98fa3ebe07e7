"""The loop of learners of action values: ε-greedy through the replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.replay import Prioritized, Sampling, Uniform
from services.trainer.arrays import Arrays
from services.trainer.collector import Choice
from services.trainer.config import DQNConfig, DQNRun, PriorityConfig
from services.trainer.exploration import EpsilonGreedy
from services.trainer.learning import Learning, Moment
from services.trainer.runs.replay_loop import ReplayLoop, ReplayParts, run_loop
from services.trainer.schedules import epsilons, linear


@dataclass(frozen=True)
class Parts(ReplayParts):
    """What an off-policy run is put together from."""

    learning: Learning


class OffPolicyRun(ReplayLoop):
    """One run of DQN and its family."""

    def __init__(self, config: DQNRun, parts: Parts) -> None:
        self._config, self._learning = config, parts.learning
        self._rates = config.dqn
        super().__init__(
            config,
            config.replay,
            self._rates.total_env_steps,
            sampling(config.dqn, parts.generator),
            parts.learning.learner,
            parts,
        )
        self._explorer = EpsilonGreedy(
            config.environment.num_envs, self._rates.epsilon.repeat, parts.generator
        )

    def state(self) -> dict[str, Any]:
        """See TrainingLoop."""
        return {"learning": self._learning.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See TrainingLoop."""
        self._learning.restore(state["learning"])

    @property
    def batch_size(self) -> int:
        """See ReplayLoop."""
        return self._rates.batch_size

    def exploring(self) -> Arrays:
        """See ReplayLoop."""
        return self._explorer.arrays()

    def explore_on(self, arrays: Arrays) -> None:
        """See ReplayLoop."""
        self._explorer.put_back(arrays)

    def act(self, observations: npt.NDArray[Any]) -> Choice:
        """See ReplayLoop."""
        values = self._learning.learner.exploring_values(observations)
        return self._explorer.choose(values, self._epsilons(), self._collector.masks)

    def learn(self, steps: int) -> dict[str, float]:
        """See ReplayLoop."""
        self._anneal()
        moment = Moment(self.share_done, float(self._epsilons().mean()))
        figures = self._learning.take(steps, self._replay, moment)
        return figures and {**figures, "epsilon": moment.epsilon}

    def _epsilons(self) -> npt.NDArray[np.float64]:
        config = self._config
        return epsilons(self.env_steps, self._rates.epsilon, config.environment.num_envs)

    def _anneal(self) -> None:
        rates = self._rates
        if rates.final_learning_rate is not None:
            self._learning.learner.set_learning_rate(
                linear(self.share_done, rates.learning_rate, rates.final_learning_rate)
            )


def run(config: DQNRun, parts: Parts) -> bool:
    """Train until finished (True) or asked to stop (False); see `run_loop`."""
    return run_loop(lambda: OffPolicyRun(config, parts), parts.session)


def sampling(rates: DQNConfig, generator: np.random.Generator) -> Sampling:
    """How batches are made of stored steps."""
    sampler = Uniform() if rates.priorities is None else _prioritized(rates.priorities)
    return Sampling(generator, sampler, rates.n_step, rates.discount)


def _prioritized(config: PriorityConfig) -> Prioritized:
    return Prioritized(config.exponent, config.importance_sampling_exponent)
