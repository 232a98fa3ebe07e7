"""Returns and advantages as pure functions. T is time, B the environments."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def q_lambda_returns(
    rewards: Floats,
    next_values: Floats,
    terminated: Bools,
    ended: Bools,
    discount: float,
    trace: float,
) -> Floats:
    """Peng's Q(λ) over a rollout, right through truncation (Gallici et al. 2024, eq. 9).

        G = r + γ·((1 - λ)·max_a Q(s', a) + λ·G')    where the episode goes on
        G = r + γ·max_a Q(s', a)                     where it or the rollout is cut off there
        G = r                                        where s' is terminal

    Args:
        rewards: (T, B)
        next_values: (T, B) max_a Q(s', a) of the state reached, the last of its own episode at
            an end.
        terminated: (T, B) the state reached is terminal, so worth nothing.
        ended: (T, B) terminated or truncated: no credit flows back across.
        trace: λ in [0, 1].

    Returns:
        (T, B)
    """
    returns = np.empty_like(rewards)
    following = next_values[-1]
    for t in reversed(range(len(rewards))):
        mixed = np.where(ended[t], next_values[t], (1 - trace) * next_values[t] + trace * following)
        following = rewards[t] + discount * ~terminated[t] * mixed
        returns[t] = following
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
