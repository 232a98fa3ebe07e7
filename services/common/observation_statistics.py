"""Observations as rows of numbers of which statistics are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.registry import ObservationStatistics

MOST = 1024
DIGITS = 7


def measured(observations: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(n, *shape), or (n,) with a field for each part of a Dict → (n, numbers).

    The numbers are all elements; of more than 1024 their mean alone.
    """
    names = observations.dtype.names
    parts = [observations] if names is None else [observations[name] for name in names]
    rows = len(observations)
    flat = np.concatenate([p.reshape(rows, -1).astype(np.float64) for p in parts], axis=1)
    return flat.mean(axis=1, keepdims=True) if flat.shape[1] > MOST else flat


def statistics_of(observations: npt.NDArray[Any]) -> ObservationStatistics:
    """Mean and standard deviation of what `measured` gives, n ≥ 1."""
    numbers = measured(observations)
    mean, std = (_rounded(values) for values in (numbers.mean(axis=0), numbers.std(axis=0)))
    return ObservationStatistics(count=len(numbers), mean=mean, std=std)


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values.tolist())
