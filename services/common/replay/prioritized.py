"""Prioritised sampling: a sum tree a ring, in step with what is written there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidInput
from services.common.replay.ring import Change, Index, Ring
from services.common.replay.samplers import NUMBER_BITS, Drawn, Prioritized
from services.common.replay.sum_tree import Doubles, SumTree, prioritise

Floats = npt.NDArray[np.float32]
BLOCK_SLOTS = 1 << 16


class PrioritizedSampler:
    """Draws step rows in proportion to their priorities, one from each of B equal shares.

    A new row has the greatest priority that was given so far, so that it is soon seen.
    """

    def __init__(self, rings: Sequence[Ring], settings: Prioritized) -> None:
        self._rings, self._settings = rings, settings
        self.beta = settings.beta
        self.maximum = 1.0
        self.trees = [SumTree(ring.capacity) for ring in rings]
        self.priorities: list[Floats] = [np.zeros(ring.capacity, np.float32) for ring in rings]
        self._dirty = [np.zeros(-(-ring.capacity // BLOCK_SLOTS), dtype=bool) for ring in rings]

    def draw(self, count: int, generator: np.random.Generator) -> list[Drawn]:
        """See `Sampler`; stratified as in the paper's Algorithm 1."""
        shares = generator.random(count) + np.arange(count)
        if len(self.trees) == 1:
            tree = self.trees[0]
            return [self._find(0, shares * (tree.total / count), tree.minimum)]
        minimum = min(tree.minimum for tree in self.trees)
        ends = np.cumsum([tree.total for tree in self.trees])
        masses = shares * (ends[-1] / count)
        shards = np.searchsorted(ends[:-1], masses, side="right")
        drawn = []
        for shard in np.unique(shards).tolist():
            before = ends[shard - 1] if shard else 0.0
            drawn.append(self._find(shard, masses[shards == shard] - before, minimum))
        return drawn

    def update(self, shard: int, index: Index, priorities: npt.NDArray[np.floating]) -> None:
        """Give rows new priorities |p| + ε; rows that are gone or overwritten are left out,
        also where another row has come to have the number.

        Raises:
            InvalidInput: when one is not finite, or there are more or fewer of them than rows.
        """
        if len(index) != len(priorities):
            raise InvalidInput(f"{len(priorities)} priorities were given for {len(index)} rows")
        ring, settings = self._rings[shard], self._settings
        greatest = prioritise(
            self.trees[shard].nodes,
            self.priorities[shard],
            self._dirty[shard],
            BLOCK_SLOTS,
            np.asarray(index, dtype=np.int64),
            np.asarray(priorities, dtype=np.float64),
            NUMBER_BITS,
            ring.generation,
            ring.oldest,
            ring.head,
            settings.alpha,
            settings.epsilon,
        )
        if math.isnan(greatest):
            raise InvalidInput("a priority is not a finite number; the learner has diverged")
        self.maximum = max(self.maximum, greatest)

    def changed(self, shard: int, change: Change) -> None:
        """See `Sampler`."""
        tree, capacity = self.trees[shard], self._rings[shard].capacity
        tree.set(change.dropped % capacity, np.zeros(len(change.dropped)))
        slots = change.added % capacity
        self.priorities[shard][slots] = self.maximum
        tree.set(slots, np.full(len(slots), self.maximum**self._settings.alpha))
        self._dirty[shard][slots // BLOCK_SLOTS] = True

    def started_over(self, shard: int) -> None:
        """See `Sampler`; rows that are still there keep their priorities."""
        ring, tree = self._rings[shard], self.trees[shard]
        tree.clear()
        slots = ring.steps % ring.capacity
        self._grow(shard, slots)

    def dirty_blocks(self, shard: int) -> Iterator[tuple[int, Floats]]:
        """Priorities of the slots changed since `saved`: (first slot, those of its block)."""
        for block in np.flatnonzero(self._dirty[shard]).tolist():
            first = block * BLOCK_SLOTS
            yield first, self.priorities[shard][first : first + BLOCK_SLOTS]

    def saved(self, shard: int) -> None:
        """What `dirty_blocks` gave is safe."""
        self._dirty[shard].fill(False)

    def restore(self, shard: int, head: int, maximum: float, priorities: Floats) -> None:
        """Take back the priorities that were saved when the ring's head was `head`.

        Rows that came later keep theirs.

        Args:
            priorities: (capacity,) by slot; 0 where none was saved.
        """
        self.maximum = max(self.maximum, maximum)
        ring, own = self._rings[shard], self.priorities[shard]
        numbers = ring.steps
        slots = numbers % ring.capacity
        known = (numbers < head) & (priorities[slots] > 0)
        own[slots] = np.where(known, priorities[slots], np.float32(self.maximum))
        self._grow(shard, slots)

    def arrays(self, shard: int) -> dict[str, npt.NDArray[Any]]:
        """All that draws of a shard depend on, bit for bit, for `put_back`."""
        capacity = self._rings[shard].capacity
        return {
            "priorities": self.priorities[shard].copy(),
            "leaves": self.trees[shard].values[:capacity].copy(),
            "maximum": np.array([self.maximum]),
        }

    def put_back(self, shard: int, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take back what `arrays` gave; the ring's rows must be those of then."""
        self.maximum = float(arrays["maximum"][0])
        self.priorities[shard][:] = arrays["priorities"]
        self.trees[shard].clear()
        leaves = arrays["leaves"]
        self.trees[shard].set(np.arange(len(leaves)), leaves.copy())

    def _grow(self, shard: int, slots: Index) -> None:
        values = self.priorities[shard][slots].astype(np.float64) ** self._settings.alpha
        self.trees[shard].set(slots, values)

    def _find(self, shard: int, masses: Doubles, minimum: float) -> Drawn:
        ring, tree = self._rings[shard], self.trees[shard]
        numbers, weights = tree.draw(masses, ring.head - 1, ring.capacity, minimum, self.beta)
        return Drawn(shard, numbers, weights, ring.generation)
