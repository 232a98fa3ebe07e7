"""Action values in a table, for environments whose states can be counted (Sutton & Barto 2018,
chapter 6): Q-learning, SARSA and Expected SARSA, which differ in their bootstrap alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from services.trainer.config import TabularConfig, TabularUpdate
from services.trainer.networks import QTable

Floats = npt.NDArray[np.float64]


def q_learning_bootstrap(values: Floats, epsilon: float, action: int) -> float:
    """max_a Q(s', a): what the greedy policy is worth, whatever is done next."""
    return float(values.max())


def sarsa_bootstrap(values: Floats, epsilon: float, action: int) -> float:
    """Q(s', a') of the action that is taken next (Rummery & Niranjan 1994)."""
    return float(values[action])


def expected_sarsa_bootstrap(values: Floats, epsilon: float, action: int) -> float:
    """Σ_a π(a|s')·Q(s', a) under the ε-greedy policy in force (van Seijen et al. 2009).

    Ties for the best share its probability, as the policy breaks them at random.
    """
    best = values == values.max()
    greedy = float(values[best].mean())
    return epsilon * float(values.mean()) + (1 - epsilon) * greedy


BOOTSTRAPS = {
    TabularUpdate.Q_LEARNING: q_learning_bootstrap,
    TabularUpdate.SARSA: sarsa_bootstrap,
    TabularUpdate.EXPECTED_SARSA: expected_sarsa_bootstrap,
}


class TabularLearner:
    """A table of action values, (states, actions), updated one step at a time.

    The step size of a state and action falls with the number of their updates n as
    max(final_learning_rate, learning_rate / (1 + n)^learning_rate_power): with a power in
    (1/2, 1] and no floor, values converge (Robbins & Monro 1951).
    """

    def __init__(self, states: int, actions: int, config: TabularConfig) -> None:
        self._config, self._bootstrap = config, BOOTSTRAPS[config.update]
        self.values: Floats = np.full((states, actions), config.initial_value)
        self._visits = np.zeros((states, actions), dtype=np.int64)
        self.updates = 0

    @property
    def network(self) -> nn.Module:
        """The table as it is now, to be judged and exported."""
        return QTable(torch.from_numpy(self.values.astype(np.float32)))

    def choose(
        self, states: npt.NDArray[np.int64], epsilon: float, generator: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """ε-greedy actions, (B,) → (B,); ties are broken at random, for a fresh table is one."""
        count, actions = len(states), self.values.shape[1]
        values = self.values[states]
        noise = generator.random((count, actions))
        best = np.where(values == values.max(axis=1, keepdims=True), noise, -1).argmax(axis=1)
        explores = generator.random(count) < epsilon
        chosen: npt.NDArray[np.int64] = np.where(
            explores, generator.integers(actions, size=count), best
        )
        return chosen

    def update(
        self,
        state: int,
        action: int,
        reward: float,
        terminated: bool,
        next_state: int,
        next_action: int,
        epsilon: float,
    ) -> float:
        """Learn from one step; returns the temporal-difference error before it.

        Args:
            terminated: then nothing follows, and the reward alone is the target. An episode
                that was only cut short is bootstrapped through.
            next_action: that is taken in next_state, which SARSA learns from.
            epsilon: of the policy that next_action was drawn from.
        """
        target = reward
        if not terminated:
            following = self._bootstrap(self.values[next_state], epsilon, next_action)
            target += self._config.discount * following
        error = target - float(self.values[state, action])
        self.values[state, action] += self._step_size(state, action) * error
        self._visits[state, action] += 1
        self.updates += 1
        return error

    def greedy(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """(B,) → (B,); of equals the first, as the exported model has it."""
        best: npt.NDArray[np.int64] = self.values[observations].astype(np.float32).argmax(axis=1)
        return best

    def tensors(self) -> dict[str, Tensor]:
        """All that is learnt."""
        return {"values": torch.from_numpy(self.values), "visits": torch.from_numpy(self._visits)}

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave."""
        self.values = tensors["values"].numpy().copy()
        self._visits = tensors["visits"].numpy().copy()
        self.updates = updates

    def _step_size(self, state: int, action: int) -> float:
        config = self._config
        visits: int = self._visits[state, action].item()
        falling: float = config.learning_rate / (1 + visits) ** config.learning_rate_power
        return max(config.final_learning_rate, falling)
