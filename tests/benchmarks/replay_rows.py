"""Rows as collectors make them, for the replay's benchmark."""

from __future__ import annotations

import numpy as np

from services.common.replay import ReplaySchema
from services.common.replay.fragments import FragmentBuilder
from services.common.replay.schema import Rows

CARTPOLE = ReplaySchema.transitions((4,), "float32")
FRAMES = ReplaySchema.transitions((84, 84), "uint8", stack=4)


class Stream:
    """Episodes of equal length in several lanes, cut into chunks wherever a chunk is full.

    The first element of a state counts the steps of its episode (modulo 256), by which samples
    can be checked; the rest is noise.
    """

    def __init__(self, schema: ReplaySchema, lanes: int, episode_length: int) -> None:
        self._schema, self._lanes, self._length = schema, lanes, episode_length
        self._builder = FragmentBuilder(schema, lanes)
        self._generator = np.random.default_rng(0)
        self._episode_ids = np.arange(lanes)
        self._step = 0

    def chunk(self, steps: int) -> Rows:
        """The fragments of the next `steps` steps, divided evenly among the lanes."""
        for _ in range(steps // self._lanes):
            rows = self._states(self._step)
            rows["action"] = self._generator.integers(2, size=self._lanes)
            rows["reward"] = 1
            rows["episode_id"], rows["step"] = self._episode_ids, self._step
            self._step += 1
            rows["terminated"] = self._step == self._length
            self._builder.add(rows, self._states(self._step))
            if self._step == self._length:
                self._step = 0
                self._episode_ids = self._episode_ids + self._lanes
        return self._builder.take()

    def _states(self, step: int) -> Rows:
        rows = self._schema.empty(self._lanes)
        states = rows["observation"]
        if states.dtype == np.uint8:
            states[:] = self._generator.integers(256, size=states.shape, dtype=np.uint8)
        else:
            states[:] = self._generator.random(states.shape)
        states.reshape(self._lanes, -1)[:, 0] = step % 256
        return rows
