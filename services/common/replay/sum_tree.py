"""A tree of sums and minima over the slots of a ring, in machine code.

Sums are float64 and always those of the two children, so that they never drift, and a leaf of
zero is never drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from services.common.replay.ring import Index

Doubles = npt.NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function as machine code, made at its first call and kept on disk where that can be."""
    try:
        return cast(F, numba.njit(cache=True)(function))
    except RuntimeError:  # no folder to keep it in can be written
        return cast(F, numba.njit(function))


class SumTree:
    """Values of `capacity` slots, all 0 at first. Not for several threads.

    nodes: (2 · leaves, 2) sum and minimum; node n stands on 2n and 2n + 1, the root is 1.
    """

    def __init__(self, capacity: int) -> None:
        self._leaves = 1 << max(1, (capacity - 1).bit_length())
        self.nodes: Doubles = np.empty((2 * self._leaves, 2))
        self.clear()

    def clear(self) -> None:
        """Set every value to 0."""
        self.nodes[:, 0], self.nodes[:, 1] = 0, np.inf

    @property
    def total(self) -> float:
        """The sum of all values."""
        return float(self.nodes[1, 0])

    @property
    def minimum(self) -> float:
        """The least value that is not 0; infinity when all are."""
        return float(self.nodes[1, 1])

    @property
    def values(self) -> Doubles:
        """The leaves, (capacity or more,)."""
        return self.nodes[self._leaves :, 0]

    def set(self, slots: Index, values: Doubles) -> None:
        """Set values, none negative; of a slot given twice the last one holds."""
        _set(self.nodes, slots, values)

    def find(self, masses: Doubles) -> tuple[Index, Doubles]:
        """The slots at which the running sum passes each mass in [0, total), and their values."""
        return _find(self.nodes, masses)


@compiled
def put(nodes: Doubles, node: int, value: float) -> None:
    """Set a leaf, by its node (leaves + slot), and what stands on it."""
    nodes[node, 0] = value
    nodes[node, 1] = value if value > 0 else np.inf
    node //= 2
    while node:
        left, right = 2 * node, 2 * node + 1
        nodes[node, 0] = nodes[left, 0] + nodes[right, 0]
        nodes[node, 1] = min(nodes[left, 1], nodes[right, 1])
        node //= 2


@compiled
def _set(nodes: Doubles, slots: Index, values: Doubles) -> None:
    leaves = len(nodes) // 2
    for i in range(len(slots)):
        put(nodes, leaves + slots[i], values[i])


@compiled
def _find(nodes: Doubles, masses: Doubles) -> tuple[Index, Doubles]:
    leaves = len(nodes) // 2
    slots = np.empty(len(masses), np.int64)
    values = np.empty(len(masses))
    for i in range(len(masses)):
        mass, node = masses[i], 1
        while node < leaves:
            node *= 2
            left = nodes[node, 0]
            # A mass rounded up to the total must not lead to where there is nothing.
            if mass >= left and nodes[node + 1, 0] > 0:
                mass -= left
                node += 1
        slots[i] = node - leaves
        values[i] = nodes[node, 0]
    return slots, values
