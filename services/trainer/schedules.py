"""Values that change with the number of environment steps."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from services.trainer.config import EpsilonConfig


def linear(share_done: float, start: float, end: float) -> float:
    """start + (end - start)·share_done, with the share kept within [0, 1]"""
    return start + (end - start) * min(max(share_done, 0.0), 1.0)


def epsilons(steps: int, config: EpsilonConfig, num_envs: int) -> npt.NDArray[np.float64]:
    """ε of each environment, shape `(num_envs,)`; see EpsilonConfig."""
    ends = config.end * np.geomspace(1 / config.spread, config.spread, num_envs)
    if num_envs == 1:
        ends = np.array([config.end])
    left = math.exp(-steps / config.decay)
    values: npt.NDArray[np.float64] = ends + (config.start - ends) * left
    return values
