"""What a replay should hold and say, worked out one row at a time from a plain list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from replay_rig import make_steps

from services.common.replay.fragments import FragmentBuilder
from services.common.replay.schema import STEP, ReplaySchema, Rows


class Actor:
    """Two lanes whose episodes end when they are told to. No two actors share an episode."""

    def __init__(self, schema: ReplaySchema, number: int) -> None:
        self._schema, self._builder = schema, FragmentBuilder(schema, 2)
        self._step = [0, 0]
        self._episode = [1000 * number + 1, 1000 * number + 2]

    def chunk(self, ends: list[tuple[str, str]]) -> Rows:
        """Take as many steps as `ends` has, which say how each lane's episode ends, if it does."""
        for step in ends:
            taken = [self._take(lane, end) for lane, end in enumerate(step)]
            rows, reached = zip(*taken, strict=True)
            self._builder.add(np.concatenate(rows), np.concatenate(reached))
        return self._builder.take()

    def _take(self, lane: int, end: str) -> tuple[Rows, Rows]:
        step, episode = self._step[lane], self._episode[lane]
        self._step[lane] += 1
        if end:
            self._step[lane] = 0
            self._episode[lane] += 2
        ends = {end: step} if end else {}
        return make_steps(episode, [step], schema=self._schema, **ends)


@dataclass
class Oracle:
    """A replay of one shard.

    rows: every row in the order of numbers; what a truncation took is gone from it.
    """

    schema: ReplaySchema
    capacity: int
    rows: list[np.void] = field(default_factory=list)
    oldest: int = 0

    @property
    def head(self) -> int:
        return len(self.rows)

    def append(self, chunk: Rows) -> None:
        self.rows.extend(chunk)
        self.oldest = max(self.oldest, self.head - self.capacity)

    def truncate(self, head: int) -> None:
        if head < self.oldest:  # nothing of what was is left
            self.oldest = head
        del self.rows[head:]

    def sampleable(self) -> list[int]:
        numbers = range(self.oldest + self.schema.history, self.head)
        return [n for n in numbers if self.rows[n]["kind"] == STEP]

    def following(self, number: int) -> int | None:
        """The number of the next step of the episode, when it is there."""
        row = self.rows[number]
        if row["terminated"] or row["truncated"]:
            return None
        for later in range(number + 1, self.head):
            candidate = self.rows[later]
            if candidate["kind"] == STEP and key(candidate) == (key(row)[0], key(row)[1] + 1):
                return later
        return None

    def steps_from(self, number: int, count: int) -> list[int]:
        """The numbers of up to `count` steps from this one on."""
        numbers = [number]
        while len(numbers) < count and (later := self.following(numbers[-1])) is not None:
            numbers.append(later)
        return numbers

    def observation(self, number: int, later: int = 0) -> np.ndarray:
        """What was seen before that step, or after it: a frame, or a stack of them."""
        episode, step = key(self.rows[number])
        observed = self.schema.leaves[0]
        frames = list(self._frames(episode, step + later, observed.stack, observed.pad))
        return np.array(frames if observed.stack > 1 else frames[0])

    def _frames(self, episode: int, step: int, stack: int, pad: str) -> Iterator[list[float]]:
        for at in range(step - stack + 1, step + 1):
            before = [0.0] if pad == "zero" else [100.0 * episode]
            yield before if at < 0 else [100.0 * episode + at]


def key(row: np.void) -> tuple[int, int]:
    """Episode and step."""
    return int(row["episode_id"]), int(row["step"])
