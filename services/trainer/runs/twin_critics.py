"""The loop of SAC and TD3: act with noise that may last, and learn through the replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.common.replay import Sampling
from services.common.spec import Distribution
from services.trainer.algorithms.twin_critics import TwinCriticsLearner
from services.trainer.arrays import Arrays
from services.trainer.collector import Choice
from services.trainer.config import SACRun, TD3Run
from services.trainer.divergence import check_acting
from services.trainer.exploration import HeldNoise
from services.trainer.runs.replay_loop import ReplayLoop, ReplayParts, run_loop

Array = npt.NDArray[Any]


class TwinCriticsRun(ReplayLoop):
    """One run of SAC or TD3. Actions are drawn evenly until there is enough to learn from."""

    def __init__(
        self, config: SACRun | TD3Run, learner: TwinCriticsLearner, parts: ReplayParts
    ) -> None:
        rates = config.rates
        self._rates, self._learner, self._due = rates, learner, 0.0
        sampling = Sampling(parts.generator, n_step=rates.n_step, discount=rates.discount)
        super().__init__(config, config.replay, rates.total_env_steps, sampling, learner, parts)
        self._spread = config.td3.exploration_noise if isinstance(config, TD3Run) else None
        size, count = parts.spec.action.size, config.environment.num_envs
        self._noise = HeldNoise(count, size, rates.noise_hold, parts.generator)

    def state(self) -> dict[str, Any]:
        """See TrainingLoop."""
        return {"due": self._due}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See TrainingLoop."""
        self._due = state["due"]

    @property
    def batch_size(self) -> int:
        """See ReplayLoop."""
        return self._rates.batch_size

    def exploring(self) -> Arrays:
        """See ReplayLoop."""
        return self._noise.arrays()

    def explore_on(self, arrays: Arrays) -> None:
        """See ReplayLoop."""
        self._noise.put_back(arrays)

    def act(self, observations: Array) -> Choice:
        """See ReplayLoop."""
        head, spec = self._learner.head, self._parts.spec
        if self._replay.size < self._min_replay_size:
            return self._choose_evenly(len(observations))
        parameters = self._learner.parameters(observations)
        check_acting(parameters, self._parts.checkpoints.steps)
        if spec.distribution == Distribution.LOGITS:
            actions = head.draw(parameters, self._parts.generator)
        elif self._spread is not None:
            actions = np.clip(parameters + self._spread * self._noise.draw(), -1, 1)
        else:
            mean, log_std = np.split(parameters, 2, axis=1)
            actions = np.tanh(mean + np.exp(log_std) * self._noise.draw())
        given, taken = torch.from_numpy(parameters), torch.from_numpy(actions)
        chances = head.log_probability(given, taken).numpy()
        return Choice(head.to_environment(actions), chances)

    def learn(self, steps: int) -> dict[str, float]:
        """See ReplayLoop."""
        rates, figures = self._rates, dict[str, float]()
        self._due += steps / rates.env_steps_per_update
        while self._due >= 1:
            self._due -= 1
            figures = self._learner.update(self._replay.sample(rates.batch_size)) or figures
        return figures

    def _choose_evenly(self, count: int) -> Choice:
        spec, generator = self._parts.spec, self._parts.generator
        if spec.distribution == Distribution.LOGITS:
            chance = np.full(count, -np.log(spec.actions), np.float32)
            return Choice(generator.integers(spec.actions, size=count), chance)
        actions = self._learner.head.to_environment(self._noise.draw_evenly())
        return Choice(actions, np.zeros(count, np.float32))


def run(config: SACRun | TD3Run, learner: TwinCriticsLearner, parts: ReplayParts) -> bool:
    """Train until finished (True) or asked to stop (False); see `run_loop`."""
    return run_loop(lambda: TwinCriticsRun(config, learner, parts), parts.session)
