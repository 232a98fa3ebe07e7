"""The newest steps of a replay, in the order in which they were appended."""

from __future__ import annotations

from services.common.replay.batch import Floats, Transitions
from services.common.replay.ring import Index
from services.common.replay.schema import ReplaySchema, Rows


class Window(Transitions):
    """W one-step transitions, oldest first.

    successor: (W,) position in the window of the next step of the row's episode, or -1 where
        the episode ended or has not gone on yet.
    """

    def __init__(
        self, schema: ReplaySchema, windows: Rows, reward: Floats | None, successor: Index
    ) -> None:
        super().__init__(schema, windows, reward=reward)
        self.successor = successor
