"""Which row of the ring follows which in its episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.common.replay.schema import Rows

Index = npt.NDArray[np.int64]
NONE = -1


@dataclass(frozen=True)
class _Tail:
    """The newest row of an episode that is going on, and when it was written there."""

    step: int
    slot: int
    written: int


class Successors:
    """Links each row to the next step of its episode, whatever order producers append in.

    A row's successor is younger than the row, so it is in the ring for as long as the row is.
    """

    def __init__(self, capacity: int) -> None:
        self.next_slot: Index = np.full(capacity, NONE, dtype=np.int64)
        self._written: Index = np.zeros(capacity, dtype=np.int64)
        self._count = 0
        self._open: dict[int, _Tail] = {}

    def clear(self) -> None:
        """Forget every link."""
        self.next_slot.fill(NONE)
        self._open.clear()

    def link(self, slots: Index, rows: Rows) -> None:
        """Take in rows that were just written to these slots."""
        self.next_slot[slots] = NONE
        if not len(rows):
            return
        self._written[slots] = self._count + np.arange(len(slots))
        self._count += len(slots)
        order = np.lexsort((rows["step"], rows["episode_id"]))
        slots, rows = slots[order], rows[order]
        episodes, steps = rows["episode_id"], rows["step"].astype(np.int64)
        follows = (episodes[1:] == episodes[:-1]) & (steps[1:] == steps[:-1] + 1)
        self.next_slot[slots[:-1][follows]] = slots[1:][follows]
        heads = np.flatnonzero(np.concatenate([[True], ~follows]))
        tails = np.concatenate([heads[1:] - 1, [len(rows) - 1]])
        ended = rows["terminated"] | rows["truncated"]
        for head, tail in zip(heads.tolist(), tails.tolist(), strict=True):
            self._join(int(episodes[head]), int(steps[head]), int(slots[head]))
            if not ended[tail]:
                at = int(slots[tail])
                self._open[int(episodes[tail])] = _Tail(
                    int(steps[tail]), at, int(self._written[at])
                )

    def _join(self, episode: int, step: int, slot: int) -> None:
        before = self._open.pop(episode, None)
        if before is None or before.step != step - 1:
            return
        # While the episode stood still, other producers may have overwritten its row.
        if self._written[before.slot] == before.written:
            self.next_slot[before.slot] = slot
