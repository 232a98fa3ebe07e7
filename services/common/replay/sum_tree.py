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

    nodes: (2 · leaves, 2) sum and minimum of the leaves below, side by side, for they are
        changed together; node n stands on 2n and 2n + 1, the root is 1.
    """

    def __init__(self, capacity: int) -> None:
        self._leaves = 1 << max(1, (capacity - 1).bit_length())
        self.nodes: Doubles = np.empty((2 * self._leaves, 2))
        self.clear()

    def clear(self) -> None:
        """Set every value to 0."""
        self.nodes[:] = 0, np.inf

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
        put(self.nodes, slots + self._leaves, values)

    def find(self, masses: Doubles) -> tuple[Index, Doubles]:
        """The slots at which the running sum passes each mass in [0, total), and their values."""
        return _find(self.nodes, masses.copy())

    def draw(
        self, masses: Doubles, newest: int, capacity: int, minimum: float, beta: float
    ) -> tuple[Index, npt.NDArray[np.float32]]:
        """The rows that `find` finds, by their numbers, and their weights (minimum / value)^β.

        Args:
            masses: overwritten.
            newest: the number of the newest row of a ring of so many slots.
        """
        return _draw(self.nodes, masses, newest, capacity, minimum, beta)


@compiled
def put(tree: Doubles, nodes: Index, values: Doubles) -> None:
    """Set leaves, by their nodes (leaves + slot), and what stands on them; overwrites `nodes`."""
    for i in range(len(nodes)):
        tree[nodes[i], 0] = values[i]
        tree[nodes[i], 1] = values[i] if values[i] > 0 else np.inf
    level = len(tree) // 2
    while level > 1:  # all of them a level at a time, so that their loads overlap
        before = 0
        for i in range(len(nodes)):
            node = nodes[i] // 2
            nodes[i] = node
            if node != before:
                tree[node, 0] = tree[2 * node, 0] + tree[2 * node + 1, 0]
                tree[node, 1] = min(tree[2 * node, 1], tree[2 * node + 1, 1])
            before = node
        level //= 2


@compiled
def prioritise(
    tree: Doubles,
    priorities: npt.NDArray[np.float32],
    dirty: npt.NDArray[np.bool_],
    block: int,
    index: Index,
    given: Doubles,
    number_bits: int,
    generation: int,
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
        index, given: (n,) rows, and errors.
        number_bits, generation: a row's number is in so many low bits of its index; above them
            is the generation that counts.
        oldest, head: bounds of the row numbers that are there.

    Returns:
        the greatest priority given; 0 when there was none; NaN, and nothing is changed, when
        one is not finite.
    """
    leaves, greatest, count = len(tree) // 2, 0.0, 0
    for i in range(len(given)):
        if not np.isfinite(given[i]):
            return np.nan
    nodes, values = np.empty(len(index), np.int64), np.empty(len(index))
    for i in range(len(index)):
        number = index[i] - (generation << number_bits)
        slot = number % len(priorities)
        if number < oldest or number >= head or tree[leaves + slot, 0] == 0:
            continue
        priority = abs(given[i]) + epsilon
        greatest = max(greatest, priority)
        priorities[slot] = priority
        dirty[slot // block] = True
        nodes[count], values[count] = leaves + slot, priority**alpha
        count += 1
    put(tree, nodes[:count], values[:count])
    return greatest


@compiled
def _find(tree: Doubles, masses: Doubles) -> tuple[Index, Doubles]:
    """Overwrites `masses`."""
    leaves = len(tree) // 2
    nodes, values = np.ones(len(masses), np.int64), np.empty(len(masses))
    level = 1
    while level < leaves:
        for i in range(len(masses)):
            left, right = tree[2 * nodes[i], 0], tree[2 * nodes[i] + 1, 0]
            # A mass rounded up to the total must not lead to where there is nothing.
            goes_right = (masses[i] >= left) & (right > 0)
            masses[i] -= left * goes_right
            nodes[i] = 2 * nodes[i] + goes_right
        level *= 2
    for i in range(len(masses)):
        values[i] = tree[nodes[i], 0]
        nodes[i] -= leaves
    return nodes, values


@compiled
def _draw(
    tree: Doubles, masses: Doubles, newest: int, capacity: int, minimum: float, beta: float
) -> tuple[Index, npt.NDArray[np.float32]]:
    numbers, values = _find(tree, masses)
    weights = np.empty(len(numbers), np.float32)
    for i in range(len(numbers)):
        numbers[i] = newest - (newest - numbers[i]) % capacity
        weights[i] = (minimum / values[i]) ** beta
    return numbers, weights
