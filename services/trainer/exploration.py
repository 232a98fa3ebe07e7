"""Acting off the beaten path: ε-greedy whose exploratory actions last."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from services.trainer.action_masks import Masks
from services.trainer.arrays import Arrays
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

    def arrays(self) -> dict[str, npt.NDArray[np.int64]]:
        """What is being held, for `put_back`."""
        return {"left": self._left, "held": self._held}

    def put_back(self, arrays: Arrays) -> None:
        """Go on with what `arrays` gave."""
        self._left, self._held = arrays["left"].copy(), arrays["held"].copy()

    def _draw(self, masks: Masks) -> npt.NDArray[np.int64]:
        """Evenly of what each row of (N, A) allows."""
        keys = np.where(masks, self._generator.random(masks.shape), -1)
        drawn: npt.NDArray[np.int64] = keys.argmax(axis=1)
        return drawn


class HeldNoise:
    """Noise that lasts: each environment's is drawn anew with probability 1 / hold a step.

    Independent noise averages out over a few steps, so that what needs a long push is never
    met; held noise gets there (as with gSDE, Raffin et al. 2021, without its features).

    Args:
        size: elements of an action.
        hold: mean number of steps a draw lasts, geometric; 1 for independent noise.
    """

    def __init__(
        self, num_envs: int, size: int, hold: float, generator: np.random.Generator
    ) -> None:
        self._hold, self._generator = hold, generator
        self._normal = generator.standard_normal((num_envs, size), dtype=np.float32)
        self._even = generator.uniform(-1, 1, (num_envs, size)).astype(np.float32)

    def draw(self) -> npt.NDArray[np.float32]:
        """Standard normal noise of each environment, (N, size)."""
        anew = self._anew()
        fresh = self._generator.standard_normal(self._normal.shape, dtype=np.float32)
        self._normal = np.where(anew, fresh, self._normal)
        return self._normal

    def draw_evenly(self) -> npt.NDArray[np.float32]:
        """Numbers in [-1, 1] of each environment, (N, size)."""
        anew = self._anew()
        fresh = self._generator.uniform(-1, 1, self._even.shape).astype(np.float32)
        self._even = np.where(anew, fresh, self._even)
        return self._even

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """What is being held, for `put_back`."""
        return {"normal": self._normal, "even": self._even}

    def put_back(self, arrays: Arrays) -> None:
        """Go on with what `arrays` gave."""
        self._normal, self._even = arrays["normal"].copy(), arrays["even"].copy()

    def _anew(self) -> npt.NDArray[np.bool_]:
        if self._hold == 1:
            return np.ones((len(self._normal), 1), dtype=bool)
        anew: npt.NDArray[np.bool_] = (
            self._generator.random((len(self._normal), 1)) < 1 / self._hold
        )
        return anew


def _onset(epsilons: npt.NDArray[np.float64], repeat: float) -> npt.NDArray[np.float64]:
    """How often an exploratory stretch begins, so that a share ε of steps is exploratory."""
    probability: npt.NDArray[np.float64] = epsilons / (
        epsilons + repeat * np.maximum(1 - epsilons, 1e-9)
    )
    return probability
