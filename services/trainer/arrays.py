"""Numpy arrays by dotted name, as checkpoints keep what is under way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.replay import ReplaySchema
from services.common.replay.schema import Rows

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


def joined(**groups: Arrays) -> dict[str, Array]:
    """{"group.name": array}"""
    return {f"{g}.{name}": array for g, group in groups.items() for name, array in group.items()}


def part(arrays: Arrays, group: str) -> dict[str, Array]:
    """The arrays of one group, by their own names."""
    prefix = f"{group}."
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def packed(schema: ReplaySchema, rows: Rows) -> Array:
    """Rows as bytes: (n,) → (n · row_bytes,)"""
    return np.frombuffer(schema.pack(rows), np.uint8)


def unpacked(schema: ReplaySchema, data: Array) -> Rows:
    """What `packed` was given."""
    return schema.unpack(data.tobytes())


def plain(array: Array) -> Array:
    """An array that may be structured, as one that is not: (n,) → (n, bytes) then."""
    if array.dtype.names is None:
        return array
    return np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)


def like(data: Array, example: Array) -> Array:
    """What `plain` was given, of the form of an example; for the caller alone."""
    return np.ascontiguousarray(data).view(example.dtype).reshape(example.shape).copy()
