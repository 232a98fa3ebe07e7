"""The newest rows of a mirror, in the order in which they were appended."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.replay.schema import Rows
from services.common.replay.successors import Index


@dataclass(frozen=True)
class Window:
    """W rows, oldest first.

    rows: (W,)
    successor: (W,) position in the window of the next step of the row's episode, or -1 where
        the episode ended or has not gone on yet.
    """

    rows: Rows
    successor: Index
