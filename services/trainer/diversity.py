"""Choosing a few that differ from among many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def spread_out(
    features: npt.NDArray[np.float32], count: int, generator: np.random.Generator
) -> list[int]:
    """Indices of rows that lie apart, each drawn in proportion to its squared distance from
    the nearest one drawn before (k-means++, Arthur & Vassilvitskii 2007).

    People learn little from two clips of the same thing, and so do reward models.

    Args:
        features: (n, d); columns are standardised first.
        count: how many; all of them that differ when there are fewer.
    """
    if not len(features) or not count:
        return []
    spread = features.std(axis=0)
    standard = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    chosen = [int(generator.integers(len(standard)))]
    distance = _squared_distance(standard, chosen[0])
    while len(chosen) < min(count, len(standard)) and distance.sum() > 0:
        following = int(generator.choice(len(standard), p=distance / distance.sum()))
        chosen.append(following)
        distance = np.minimum(distance, _squared_distance(standard, following))
    return chosen


def _squared_distance(points: npt.NDArray[np.float32], index: int) -> npt.NDArray[np.float64]:
    differences = (points - points[index]).astype(np.float64)
    squared: npt.NDArray[np.float64] = (differences**2).sum(axis=1)
    return squared
