"""The episodes in a replay, put together again from their fragments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from services.common.replay.fragments import assemble
from services.common.replay.schema import CLOSING, LEAD, STEP, ReplaySchema, Rows
from services.common.replay.store import ReplayShard

BYTES_A_TRIP = 8 << 20


def read_rows(schema: ReplaySchema, shard: ReplayShard) -> Iterator[tuple[int, Rows]]:
    """All rows of a shard as of now, oldest first: the first one's number, and a part of them.

    Where producers overwrite rows faster than they are read, numbers skip.

    Raises:
        ReplayUnavailable: when Redis does not answer.
        ReplayDataLost: when the replay is gone.
    """
    most = max(1, BYTES_A_TRIP // schema.row_bytes)
    end, at = None, 0
    while end is None or at < end:
        tail = shard.tail(at, most)
        end = tail.head if end is None else end
        rows = schema.unpack(tail.data)[: max(0, end - tail.first)]
        if not len(rows):
            return
        yield tail.first, rows
        at = tail.first + len(rows)


def stretches(schema: ReplaySchema, parts: Iterable[tuple[int, Rows]]) -> Iterator[Rows]:
    """Consecutive steps of one episode as one fragment each: [lead rows] steps, closing row.

    Episodes that the ring has begun to overwrite lack their first steps, and those that are
    going on their last. A stretch comes when its episode has ended, or at the end; until then
    it is held in memory.

    Args:
        parts: numbered rows as `read_rows` gives them.
    """
    going: dict[int, list[Rows]] = {}
    for fragment in _fragments(schema, parts):
        episode = int(fragment["episode_id"][0])
        pieces = going.pop(episode, [])
        steps = fragment[fragment["kind"] != LEAD]
        if pieces and pieces[-1]["step"][-1] == steps["step"][0]:
            # The closing row and the step after it are the same state: the step has more.
            pieces = [*pieces[:-1], pieces[-1][:-1], steps]
        else:
            if pieces:
                yield np.concatenate(pieces)
            pieces = [fragment]
        if fragment["terminated"][-2] or fragment["truncated"][-2]:
            yield np.concatenate(pieces)
        else:
            going[episode] = pieces
    for pieces in going.values():
        yield np.concatenate(pieces)


def _fragments(schema: ReplaySchema, parts: Iterable[tuple[int, Rows]]) -> Iterator[Rows]:
    """Whole fragments; the first, if the ring cut it, begins where its states are complete."""
    rest = schema.empty(0)
    expected = None
    for first, part in parts:
        gap = expected is not None and first != expected
        torn = gap or (expected is None and first > 0)
        rows = part if gap else np.concatenate([rest, part])
        expected = first + len(part)
        start = 0
        for end in (np.flatnonzero(rows["kind"] == CLOSING) + 1).tolist():
            fragment = rows[start:end]
            if torn and start == 0:
                fragment = _mended(schema, fragment)
            if (fragment["kind"] == STEP).any():
                yield fragment
            start = end
        rest = rows[start:]


def _mended(schema: ReplaySchema, fragment: Rows) -> Rows:
    """Without its first rows, the next serve only as what stacks of frames reach back to."""
    history = schema.history
    if not history or fragment["step"][0] == 0:
        return fragment
    mended = fragment.copy()
    mended["kind"][:-1] = STEP
    mended["kind"][: min(history, len(mended) - 1)] = LEAD
    return mended


def cut(schema: ReplaySchema, stretch: Rows, most: int) -> Rows:
    """A stretch as fragments of at most so many steps."""
    leads = stretch[stretch["kind"] == LEAD]
    begin = len(leads)
    steps, reached = stretch[begin:-1], stretch[begin + 1 :]
    back = schema.history
    before = [
        (at, stretch[max(0, begin + at - back) : begin + at]) for at in range(0, len(steps), most)
    ]
    lane = np.arange(len(steps)) // most
    return assemble(schema, steps, reached, lane, [(at, rows) for at, rows in before if len(rows)])


def whole(stretch: Rows) -> bool:
    """Whether it is an episode from its first step to its end."""
    last = stretch[-2]
    return bool(stretch["step"][0] == 0 and (last["terminated"] or last["truncated"]))
