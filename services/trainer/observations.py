"""Observations on their way into a network: what a Dict holds as one row of numbers.

Learners and loops handle observations (B, …) as one array, whatever they are. Of a Dict that is a
structured array (B,) with a field for each part, which can be cut, stacked and joined as any
other; the replay keeps the parts in fields of their own. A network is given a row of numbers, the
parts side by side in the order of the spec, and takes it apart again (see `encoders.Parts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.spec import DictSpace

Array = npt.NDArray[Any]


def rows(observations: Any) -> Array:
    """What a network is given of observations: (B, …) as they are, or (B, size) of a Dict.

    Args:
        observations: an array, structured or not, or a Dict's parts by key, (B, …) each.
    """
    if isinstance(observations, Mapping):
        return _side_by_side(list(observations.values()))
    array: Array = observations
    if array.dtype.names is None:
        return array
    return _side_by_side([array[name] for name in array.dtype.names])


def packed(parts: Mapping[str, Array], space: DictSpace) -> Array:
    """Parts (B, …) by key as one structured array (B,)."""
    count = len(next(iter(parts.values())))
    together = np.empty(count, space.row)
    for key in space.parts:
        together[key] = parts[key]
    return together


def _side_by_side(parts: list[Array]) -> Array:
    flat = [part.reshape(len(part), -1).astype(np.float32, copy=False) for part in parts]
    return np.concatenate(flat, axis=1)
