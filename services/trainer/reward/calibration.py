"""How good predicted preferences are: accuracy, its interval, and calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Bin:
    """Predictions of about one probability: their mean, what came true of them, how many."""

    predicted: float
    observed: float
    count: int


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, Z95**2
    centre = share + z2 / (2 * trials)
    margin = Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def reliability(predicted: Floats, observed: Floats, bins: int) -> list[Bin]:
    """Bins of equal width over [0, 1], empty ones left out.

    Args:
        predicted: (P,) probabilities.
        observed: (P,) 1 where it came true, else 0.
    """
    which = np.minimum((predicted * bins).astype(int), bins - 1)
    found = []
    for i in range(bins):
        members = which == i
        if members.any():
            found.append(
                Bin(
                    float(predicted[members].mean()),
                    float(observed[members].mean()),
                    int(members.sum()),
                )
            )
    return found


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean distance of predicted from observed, by the bins' counts; 0 without predictions."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.predicted - b.observed) for b in bins) / total if total else 0.0
