"""Values that change with the number of environment steps."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from services.trainer.config import EpsilonConfig


def exponential_decay(steps: int, start: float, end: float, time_constant: float) -> float:
    """end + (start - end)·exp(-steps / time_constant)"""
    return end + (start - end) * math.exp(-steps / time_constant)


def epsilons(steps: int, config: EpsilonConfig, num_envs: int) -> npt.NDArray[np.float64]:
    """ε of each environment, shape `(num_envs,)`; see EpsilonConfig."""
    base = exponential_decay(steps, config.start, config.end, config.decay)
    share = np.arange(num_envs) / max(num_envs - 1, 1)
    powers: npt.NDArray[np.float64] = base ** (1 + share * (config.spread - 1))
    return powers
