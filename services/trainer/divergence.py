"""A run whose figures are no longer numbers must not go on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from services.common.errors import TutelageError


class TrainingDiverged(TutelageError):
    """A loss became NaN or infinite."""


def check_finite(figures: Mapping[str, float], checkpoints: Sequence[int]) -> None:
    """Raise when one of the learner's figures is NaN or infinite.

    Raises:
        TrainingDiverged: naming the figure and the last good checkpoint.
    """
    for name, value in figures.items():
        if not math.isfinite(value):
            raise _diverged(f"{name} became {value}", checkpoints)


def check_weights(tensors: Mapping[str, Tensor], checkpoints: Sequence[int]) -> None:
    """Raise when what was learnt holds NaN or infinity, so that it must not be kept.

    Raises:
        TrainingDiverged: naming the tensor and the last good checkpoint.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise _diverged(f"{name} is no longer finite", checkpoints)


def _diverged(what: str, checkpoints: Sequence[int]) -> TrainingDiverged:
    last = f"{checkpoints[-1]} env steps" if checkpoints else "none"
    return TrainingDiverged(
        f"{what}; last good checkpoint: {last}. Try a lower learning rate or a larger reward scale"
    )
