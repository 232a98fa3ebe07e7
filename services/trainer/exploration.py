"""Acting off the beaten path: ε-greedy whose exploratory actions last."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from services.trainer.action_masks import Masks
from services.trainer.collector import Choice


class EpsilonGreedy:
    """ε-greedy with repeated exploratory actions (Dabney et al. 2021, εz-greedy).

    A single random action is undone by the next greedy one, so that some states are never
    seen; a random action that is held for a while gets there. ε is the share of exploratory
    steps, whatever their mean duration.

    Args:
        num_envs: environments acted in.
        repeat: mean number of steps an exploratory action is held, geometric; 1 for plain
            ε-greedy.
    """

    def __init__(self, num_envs: int, repeat: float, generator: np.random.Generator) -> None:
        self._repeat, self._generator = repeat, generator
        self._left = np.zeros(num_envs, dtype=np.int64)
        self._held = np.zeros(num_envs, dtype=np.int64)

    def choose(
        self,
        values: npt.NDArray[np.float32],
        epsilons: npt.NDArray[np.float64],
        masks: Masks | None = None,
    ) -> Choice:
        """Actions, and their log-probabilities given what each environment has been doing.

        Args:
            values: (N, A)
            epsilons: (N,)
            masks: (N, A) true where allowed; an action that is no longer allowed is not held.
        """
        generator, (count, actions) = self._generator, values.shape
        allowed: int | npt.NDArray[np.int64] = actions
        if masks is not None:
            values, allowed = np.where(masks, values, -np.inf), masks.sum(axis=1)
            self._left[~masks[np.arange(count), self._held]] = 0
        best = values.argmax(axis=1)
        held = self._left > 0
        begins_with = _onset(epsilons, self._repeat)
        begins = ~held & (generator.random(count) < begins_with)
        durations = generator.geometric(1 / self._repeat, count)
        drawn = generator.integers(actions, size=count) if masks is None else self._draw(masks)
        self._left = np.where(begins, durations, self._left)
        self._held = np.where(begins, drawn, self._held)
        chosen = np.where(self._left > 0, self._held, best)
        self._left = np.maximum(self._left - 1, 0)
        free = begins_with / allowed + np.where(chosen == best, 1 - begins_with, 0)
        probability = np.where(held, 1.0, free)
        return Choice(chosen, np.log(probability).astype(np.float32))

    def _draw(self, masks: Masks) -> npt.NDArray[np.int64]:
        """Evenly of what each row of (N, A) allows."""
        keys = np.where(masks, self._generator.random(masks.shape), -1)
        drawn: npt.NDArray[np.int64] = keys.argmax(axis=1)
        return drawn


def _onset(epsilons: npt.NDArray[np.float64], repeat: float) -> npt.NDArray[np.float64]:
    """How often an exploratory stretch begins, so that a share ε of steps is exploratory."""
    probability: npt.NDArray[np.float64] = epsilons / (
        epsilons + repeat * np.maximum(1 - epsilons, 1e-9)
    )
    return probability
