"""A run whose figures are no longer numbers must not go on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
            last = f"{checkpoints[-1]} env steps" if checkpoints else "none"
            raise TrainingDiverged(
                f"{name} became {value}; last good checkpoint: {last}. "
                "Try a lower learning rate or a smaller reward scale"
            )
