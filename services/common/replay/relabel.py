"""Rewards that are computed anew when rows are sampled, such as by a reward model."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from services.common.replay.batch import Transitions
from services.common.replay.ring import Change, Index, Ring

Floats = npt.NDArray[np.float32]
NEVER = -1


class Relabeler(Protocol):
    """Rewards to learn from in place of the stored ones; the store keeps the environment's.

    HER-style goals too: `transitions.rows` has episode ids and steps.
    """

    @property
    def version(self) -> int:
        """Of what makes the rewards, not negative; rewards of another version are made anew."""
        ...

    def rewards(self, transitions: Transitions) -> Floats:
        """The rewards of n one-step transitions as stored, (n,)."""
        ...


class Labels:
    """A ring's relabelled rewards, each computed once a version, when it is first asked for."""

    def __init__(self, relabeler: Relabeler, ring: Ring) -> None:
        self._relabeler, self._ring = relabeler, ring
        self._rewards: Floats = np.zeros(ring.capacity, dtype=np.float32)
        self._versions: Index = np.full(ring.capacity, NEVER, dtype=np.int64)

    def of(self, slots: Index) -> Floats:
        """Rewards of the step rows in these slots, (n,)."""
        version = self._relabeler.version
        old = self._versions[slots] != version
        if old.any():
            stale = np.unique(slots[old])
            transitions = Transitions(self._ring.schema, self._ring.windows(stale))
            self._rewards[stale] = self._relabeler.rewards(transitions)
            self._versions[stale] = version
        return self._rewards[slots]

    def changed(self, change: Change) -> None:
        """Forget what stood where rows were written."""
        self._versions[change.added % self._ring.capacity] = NEVER

    def started_over(self) -> None:
        """Forget everything."""
        self._versions.fill(NEVER)
