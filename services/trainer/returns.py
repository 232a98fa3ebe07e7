"""Returns and advantages as pure functions. T is time, B the environments."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def lambda_returns(
    rewards: Floats,
    next_values: Floats,
    terminated: Bools,
    successor: npt.NDArray[np.int64],
    discount: float,
    trace: float,
    horizon: int,
) -> Floats:
    """Truncated λ-returns over linked steps (Daley & Amato 2019), uncorrected, as Peng's Q(λ).

        G = r + γ·((1 - λ)·V(s') + λ·G')    where the episode goes on, else r + γ·V(s')

    After k rounds of that equation G is the return that looks k + 1 steps ahead; rounds are
    vectorised over all W steps, in whatever order they are.

    Args:
        rewards: (W,)
        next_values: (W,) of the state reached.
        terminated: (W,) the state reached is terminal, so worth nothing.
        successor: (W,) index of the next step of the same episode, or -1.
        trace: λ in [0, 1].
        horizon: steps to look ahead, at most.

    Returns:
        (W,)
    """
    bootstrap = np.where(terminated, 0, discount * next_values)
    linked = (successor >= 0) & ~terminated
    following = np.where(linked, successor, 0)
    returns = (rewards + bootstrap).astype(np.float32)
    base = rewards + np.where(linked, (1 - trace) * bootstrap, bootstrap)
    weight = np.where(linked, discount * trace, 0)
    for _ in range(horizon - 1):
        returns = (base + weight * returns[following]).astype(np.float32)
    return returns


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
