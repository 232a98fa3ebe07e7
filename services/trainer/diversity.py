"""Choosing a few that differ from among many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MOST_UNITS = 10


def spread_out(
    features: npt.NDArray[np.float32],
    count: int,
    generator: np.random.Generator,
    weights: npt.NDArray[np.float64] | None = None,
) -> list[int]:
    """Indices of rows that lie apart, each drawn in proportion to its weight and its squared
    distance from the nearest one drawn before (k-means++, Arthur & Vassilvitskii 2007).

    People learn little from two clips of the same thing, and so do reward models.

    Args:
        features: (n, d), in units in which distances are alike in all columns.
        count: how many; all of them that differ when there are fewer.
        weights: (n,), above 0; all alike by default.
    """
    if not len(features) or not count:
        return []
    weight = np.ones(len(features)) if weights is None else weights
    chosen = [int(generator.choice(len(features), p=weight / weight.sum()))]
    distance = weight * _squared_distance(features, chosen[0])
    while len(chosen) < min(count, len(features)) and distance.sum() > 0:
        following = int(generator.choice(len(features), p=distance / distance.sum()))
        chosen.append(following)
        distance = np.minimum(distance, weight * _squared_distance(features, following))
    return chosen


def by_change_within(stretches: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The mean of each stretch, in units of how much an element changes within a stretch.

    Elements that change faster than a stretch lasts average out to about the same everywhere;
    standardised, what is left of them would count as much as what lasts. One that hardly
    changes within a stretch is in tenths of its spread over all of them, lest it were all that
    counts.

    Args:
        stretches: n of shape (T, *shape).

    Returns:
        (n, d)
    """
    means = np.stack([stretch.mean(axis=0).ravel() for stretch in stretches])
    within = np.stack([stretch.std(axis=0).ravel() for stretch in stretches]).mean(axis=0)
    units = np.maximum(within, means.std(axis=0) / MOST_UNITS)
    features: npt.NDArray[np.float32] = (means / np.where(units > 0, units, 1)).astype(np.float32)
    return features


def _squared_distance(points: npt.NDArray[np.float32], index: int) -> npt.NDArray[np.float64]:
    differences = (points - points[index]).astype(np.float64)
    squared: npt.NDArray[np.float64] = (differences**2).sum(axis=1)
    return squared
