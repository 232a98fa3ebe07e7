"""The newest rows of a replay in this process's memory, and which of them can be sampled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.common.replay.schema import CLOSING, STEP, ReplaySchema, Rows

Index = npt.NDArray[np.int64]
NONE = -1
FEWEST_OPEN = 1024


@dataclass(frozen=True)
class Change:
    """What a write did: numbers of the step rows that can be sampled no more, and newly."""

    dropped: Index
    added: Index


class Ring:
    """A ring of rows, in which row number n lies in slot n mod capacity.

    Step rows can be sampled once the row after them is there, and while `history` rows before
    them still are. Not for several threads.

    generation: how often rows were forgotten whose numbers may be given out again.

    Args:
        capacity: rows of any kind.
        path: file to map into memory instead of taking memory; it is overwritten.
    """

    def __init__(self, schema: ReplaySchema, capacity: int, path: Path | None = None) -> None:
        self.schema, self.capacity = schema, capacity
        # The first rows stand again behind the last, so that every window is in one piece.
        self._margin = schema.history + 1
        self.rows = _allocate(schema, capacity + self._margin, path)
        width, size = schema.row_bytes, schema.row_bytes * (schema.history + 2)
        self._raw = self.rows.view(f"V{width}")
        self._windows: Rows = np.ndarray((capacity,), f"V{size}", self.rows.data, 0, (width,))
        self.next_slot: Index = np.full(capacity, NONE, dtype=np.int64)
        self._steps: Index = np.zeros(capacity, dtype=np.int64)  # row numbers, itself a ring
        self._prune_at = FEWEST_OPEN
        self.generation = 0
        self.clear()

    def clear(self) -> None:
        """Forget every row."""
        self.head = self.oldest = 0
        self._first_step = self._end_step = 0
        self._open: dict[int, tuple[int, int]] = {}

    @property
    def size(self) -> int:
        """Step rows that can be sampled."""
        return self._end_step - self._first_step

    @property
    def steps(self) -> Index:
        """Numbers of the step rows that can be sampled, ascending, shape (size,)."""
        return self._steps[np.arange(self._first_step, self._end_step) % self.capacity]

    def draw(self, count: int, generator: np.random.Generator) -> Index:
        """Numbers of uniformly drawn step rows, with replacement; `size` must not be 0."""
        drawn = (generator.random(count) * self.size).astype(np.int64)  # faster than integers()
        drawn += self._first_step
        return self._steps.take(drawn, mode="wrap")  # half the time of indexing by a remainder

    def number(self, slots: Index) -> Index:
        """The numbers of the rows in these slots."""
        newest = self.head - 1
        numbers: Index = newest - (newest - slots) % self.capacity
        return numbers

    def windows(self, slots: Index) -> Rows:
        """Rows around each slot: (n, history + 2), the slot's own is the last but one."""
        history = self.schema.history
        starts = (slots - history) % self.capacity if history else slots
        windows = self._windows[starts].view(self.schema.dtype)
        return windows.reshape(len(slots), history + 2)

    def write(self, first: int, rows: Rows) -> Change:
        """Take in rows whose numbers are from `first` on; a fragment cut short at the end is left.

        Rows before `first` that are not here yet were missed: then none before it remains.
        """
        rows = rows[: _whole(rows)]
        if len(rows) > self.capacity:
            first, rows = first + len(rows) - self.capacity, rows[-self.capacity :]
        missed = self._miss(first) if first > self.head else _NO_ROWS
        if not len(rows):
            return Change(missed, _NO_ROWS)
        self._copy(first, rows)
        self.head = first + len(rows)
        self.oldest = max(self.oldest, self.head - self.capacity)
        dropped = self._drop(self.oldest + self.schema.history)
        added = self._index(first, rows)
        return Change(np.concatenate([missed, dropped]) if len(missed) else dropped, added)

    def begin_at(self, number: int) -> None:
        """Forget every row; the next to be written has this number."""
        self.clear()
        self.head = self.oldest = number

    def truncate(self, head: int) -> None:
        """Forget the rows numbered `head` and above, which ends a fragment."""
        if head >= self.head:
            return
        self.generation += 1  # other rows may come to have the numbers of those forgotten
        first = min(self.oldest, head)
        rows = self.rows[np.arange(self.oldest, head) % self.capacity]
        self.clear()
        self.head = self.oldest = first
        self.write(first, rows)

    def _miss(self, first: int) -> Index:
        self.head = self.oldest = first
        self._open.clear()
        return self._drop(first)

    def _drop(self, limit: int) -> Index:
        """Give up step rows numbered below `limit`."""
        most = min(self.size, max(0, limit - self._lowest_step()))
        places = np.arange(self._first_step, self._first_step + most) % self.capacity
        numbers = self._steps[places]
        numbers = numbers[: np.searchsorted(numbers, limit)]
        self._first_step += len(numbers)
        return numbers

    def _lowest_step(self) -> int:
        return int(self._steps[self._first_step % self.capacity]) if self.size else 0

    def _copy(self, first: int, rows: Rows) -> None:
        raw = np.ascontiguousarray(rows).view(self._raw.dtype)
        slot = first % self.capacity
        fits = min(len(raw), self.capacity - slot)
        self._raw[slot : slot + fits] = raw[:fits]
        self._raw[: len(raw) - fits] = raw[fits:]
        if slot < self._margin or fits < len(raw) or slot + fits == self.capacity:
            for i in range(self._margin):  # one by one, for a ring may be shorter than these
                self._raw[self.capacity + i] = self._raw[i % self.capacity]

    def _index(self, first: int, rows: Rows) -> Index:
        """Note which of the rows just written can be sampled, and what follows them."""
        is_step = rows["kind"] == STEP
        added = first + np.flatnonzero(is_step)  # the last row closes: each has one after it
        if added.size and added[0] < self.oldest + self.schema.history:
            added = added[added >= self.oldest + self.schema.history]
        places = np.arange(self._end_step, self._end_step + len(added)) % self.capacity
        self._steps[places] = added
        self._end_step += len(added)
        slots = (first + np.arange(len(rows))) % self.capacity
        following = np.full(len(rows), NONE, dtype=np.int64)
        goes_on = is_step[:-1] & is_step[1:]
        following[:-1][goes_on] = slots[1:][goes_on]
        self.next_slot[slots] = following
        begins = is_step.copy()
        begins[1:] &= ~is_step[:-1]
        self._join(first, rows, np.flatnonzero(begins), self._cuts(rows, is_step))
        return added

    @staticmethod
    def _cuts(rows: Rows, is_step: npt.NDArray[np.bool_]) -> Index:
        """Positions of closing rows at which the episode did not end."""
        closings = np.flatnonzero((rows["kind"][1:] == CLOSING) & is_step[:-1]) + 1
        before = rows[closings - 1]
        going_on: Index = closings[~(before["terminated"] | before["truncated"])]
        return going_on

    def _join(self, first: int, rows: Rows, begins: Index, cuts: Index) -> None:
        """Link fragments that continue an episode to the fragment before."""
        begins = begins[rows["step"][begins] > 0]
        places = np.concatenate([cuts, begins])
        if not len(places):
            return
        starts_here = np.arange(len(places)) >= len(cuts)
        episodes, steps = rows["episode_id"][places], rows["step"][places]
        order = np.lexsort((starts_here, steps, episodes))  # a cut right before what follows it
        places, starts_here = places[order], starts_here[order]
        episodes, steps = episodes[order], steps[order]
        pairs = ~starts_here[:-1] & starts_here[1:]
        pairs &= (episodes[1:] == episodes[:-1]) & (steps[1:] == steps[:-1])
        pair = np.flatnonzero(pairs)
        self._link(first + places[pair] - 1, first + places[pair + 1])
        alone = np.ones(len(places), dtype=bool)
        alone[pair] = alone[pair + 1] = False
        for i in np.flatnonzero(alone).tolist():
            episode, step, number = int(episodes[i]), int(steps[i]), first + int(places[i])
            if not starts_here[i]:
                self._open[episode] = (step, number - 1)
                continue
            cut_at, last = self._open.pop(episode, (0, NONE))
            if cut_at == step and last >= self.oldest:
                self.next_slot[last % self.capacity] = number % self.capacity
        if len(self._open) > self._prune_at:
            self._prune()

    def _link(self, numbers: Index, following: Index) -> None:
        held = (numbers >= self.oldest) & (following < self.head)
        self.next_slot[numbers[held] % self.capacity] = following[held] % self.capacity

    def _prune(self) -> None:
        """Forget episodes that were given up, and whose rows are gone."""
        self._open = {e: cut for e, cut in self._open.items() if cut[1] >= self.oldest}
        self._prune_at = max(FEWEST_OPEN, 2 * len(self._open))


_NO_ROWS: Index = np.zeros(0, dtype=np.int64)


def _whole(rows: Rows) -> int:
    """How many of the rows are of fragments that end here."""
    kinds = rows["kind"]
    if not len(kinds) or kinds[-1] == CLOSING:
        return len(kinds)
    closings = np.flatnonzero(kinds == CLOSING)
    return int(closings[-1]) + 1 if len(closings) else 0


def _allocate(schema: ReplaySchema, count: int, path: Path | None) -> Rows:
    if path is None:
        return schema.empty(count)
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.memmap(path, schema.dtype, mode="w+", shape=(count,))
