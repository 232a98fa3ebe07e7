"""Returns and advantages as pure functions. T is time, B the environments."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def generalised_advantages(
    rewards: Floats,
    values: Floats,
    next_values: Floats,
    terminated: Bools,
    ended: Bools,
    discount: float,
    gae_lambda: float,
) -> Floats:
    """Advantages by GAE (Schulman et al. 2016, eq. 16), right through truncation.

    Args:
        rewards: (T, B) of each step.
        values: (T, B) of the state acted in.
        next_values: (T, B) of the state reached, the last of its own episode at an end.
        terminated: (T, B) the state reached is terminal, so worth nothing.
        ended: (T, B) terminated or truncated: no credit flows back across.

    Returns:
        (T, B)
    """
    deltas = rewards + discount * next_values * ~terminated - values
    advantages = np.zeros_like(deltas)
    following = np.zeros(deltas.shape[1], dtype=np.float32)
    for t in reversed(range(len(deltas))):
        following = deltas[t] + discount * gae_lambda * ~ended[t] * following
        advantages[t] = following
    return advantages
