"""A run whose figures are no longer numbers must not go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from services.common.errors import TutelageError

Checkpoints = Callable[[], Sequence[int]]
"""Says at which environment steps there is one, oldest first; asked only when it matters."""


class TrainingDiverged(TutelageError):
    """A loss became NaN or infinite."""


def check_finite(figures: Mapping[str, float], checkpoints: Checkpoints) -> None:
    """Raise when one of the learner's figures is NaN or infinite.

    Raises:
        TrainingDiverged: naming the figure and the last good checkpoint.
    """
    for name, value in figures.items():
        if not math.isfinite(value):
            raise _diverged(f"{name} became {value}", checkpoints)


def check_acting(parameters: npt.NDArray[Any], checkpoints: Checkpoints) -> None:
    """Raise when the policy no longer gives numbers, before an environment is to act on them.

    Raises:
        TrainingDiverged: naming the last good checkpoint.
    """
    if not np.isfinite(parameters).all():
        raise _diverged("the policy's output is no longer finite", checkpoints)


def check_weights(tensors: Mapping[str, Tensor], checkpoints: Checkpoints) -> None:
    """Raise when what was learnt holds NaN or infinity, so that it must not be kept.

    Raises:
        TrainingDiverged: naming the tensor and the last good checkpoint.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise _diverged(f"{name} is no longer finite", checkpoints)


def _diverged(what: str, checkpoints: Checkpoints) -> TrainingDiverged:
    steps = checkpoints()
    last = f"{steps[-1]} env steps" if steps else "none"
    return TrainingDiverged(
        f"{what}; last good checkpoint: {last}. Try a lower learning rate or a larger reward scale"
    )
