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

    sums, minima: (2 · leaves,) of the leaves below; node n stands on 2n and 2n + 1, the root
        is 1.
    """

    def __init__(self, capacity: int) -> None:
        self._leaves = 1 << max(1, (capacity - 1).bit_length())
        self.sums: Doubles = np.empty(2 * self._leaves)
        self.minima: Doubles = np.empty(2 * self._leaves)
        self.clear()

    def clear(self) -> None:
        """Set every value to 0."""
        self.sums.fill(0)
        self.minima.fill(np.inf)

    @property
    def total(self) -> float:
        """The sum of all values."""
        return float(self.sums[1])

    @property
    def minimum(self) -> float:
        """The least value that is not 0; infinity when all are."""
        return float(self.minima[1])

    @property
    def values(self) -> Doubles:
        """The leaves, (capacity or more,)."""
        return self.sums[self._leaves :]

    def set(self, slots: Index, values: Doubles) -> None:
        """Set values, none negative; of a slot given twice the last one holds."""
        put(self.sums, self.minima, slots + self._leaves, values)

    def find(self, masses: Doubles) -> tuple[Index, Doubles]:
        """The slots at which the running sum passes each mass in [0, total), and their values."""
        return _find(self.sums, masses)


@compiled
def put(sums: Doubles, minima: Doubles, nodes: Index, values: Doubles) -> None:
    """Set leaves, by their nodes (leaves + slot), and what stands on them; overwrites `nodes`."""
    for i in range(len(nodes)):
        sums[nodes[i]] = values[i]
        minima[nodes[i]] = values[i] if values[i] > 0 else np.inf
    level = len(sums) // 2
    while level > 1:  # all of them a level at a time, so that their loads overlap
        before = 0
        for i in range(len(nodes)):
            node = nodes[i] // 2
            nodes[i] = node
            if node != before:
                sums[node] = sums[2 * node] + sums[2 * node + 1]
                minima[node] = min(minima[2 * node], minima[2 * node + 1])
            before = node
        level //= 2


@compiled
def prioritise(
    sums: Doubles,
    minima: Doubles,
    priorities: npt.NDArray[np.float32],
    dirty: npt.NDArray[np.bool_],
    block: int,
    index: Index,
    given: Doubles,
    oldest: int,
    head: int,
    alpha: float,
    epsilon: float,
) -> float:
    """Give rows the priorities |given| + ε, and their leaves those to the power of α.

    Rows that are gone, or whose leaf is 0, are left out. Here and not with its caller, for
    what numba keeps on disk does not notice when a function of another file has changed.

    Args:
        priorities: (capacity,) by slot, written to.
        dirty: set for each block of so many slots that is written to.
        index, given: (n,) row numbers, and errors.
        oldest, head: bounds of the row numbers that are there.

    Returns:
        the greatest priority given; 0 when there was none.
    """
    leaves, greatest, count = len(sums) // 2, 0.0, 0
    nodes, values = np.empty(len(index), np.int64), np.empty(len(index))
    for i in range(len(index)):
        slot = index[i] % len(priorities)
        if index[i] < oldest or index[i] >= head or sums[leaves + slot] == 0:
            continue
        priority = abs(given[i]) + epsilon
        greatest = max(greatest, priority)
        priorities[slot] = priority
        dirty[slot // block] = True
        nodes[count], values[count] = leaves + slot, priority**alpha
        count += 1
    put(sums, minima, nodes[:count], values[:count])
    return greatest


@compiled
def _find(sums: Doubles, masses: Doubles) -> tuple[Index, Doubles]:
    leaves = len(sums) // 2
    nodes, left_over = np.ones(len(masses), np.int64), masses.copy()
    level = 1
    while level < leaves:
        for i in range(len(masses)):
            left, right = sums[2 * nodes[i]], sums[2 * nodes[i] + 1]
            # A mass rounded up to the total must not lead to where there is nothing.
            goes_right = (left_over[i] >= left) & (right > 0)
            left_over[i] -= left * goes_right
            nodes[i] = 2 * nodes[i] + goes_right
        level *= 2
    return nodes - leaves, sums[nodes]
