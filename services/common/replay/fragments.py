"""Makes fragments of the steps that vectorised environments take; see `schema`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from services.common.replay.schema import CLOSING, LEAD, ReplaySchema, Rows

Bools = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]


class FragmentBuilder:
    """Gathers the steps of several lanes, such as environments, until they are appended.

    Each lane's steps are of one episode after another. Not for several threads.
    """

    def __init__(self, schema: ReplaySchema, lanes: int) -> None:
        self._schema, self._lanes = schema, lanes
        self._rows: list[Rows] = []
        self._reached: list[Rows] = []
        self._live: list[Bools] = []
        self._before: list[Rows] = [schema.empty(0)] * lanes
        self.steps = 0

    def add(self, rows: Rows, reached: Rows, live: Bools | None = None) -> None:
        """Take in one step of every lane; the arrays must not be changed afterwards.

        Args:
            rows: (lanes,) what `schema` has of a step.
            reached: (lanes,) rows of which the state columns count: the state after the step,
                the last of its own episode at an end.
            live: (lanes,) False where a lane took no step, as when it was reset.
        """
        live = np.ones(self._lanes, dtype=bool) if live is None else live
        self._rows.append(rows)
        self._reached.append(reached)
        self._live.append(live)
        self.steps += int(live.sum())

    def take(self) -> Rows:
        """All that was added since the last time, as whole fragments, one lane after another."""
        if not self.steps:
            self._forget()
            return self._schema.empty(0)
        live = np.stack(self._live, axis=1)  # (lanes, T)
        lane = np.nonzero(live)[0]
        rows = np.stack(self._rows, axis=1)[live]
        reached = np.stack(self._reached, axis=1)[live]
        self._forget()
        leads = self._leads(lane, rows)
        fragments = assemble(self._schema, rows, reached, lane, leads)
        self._remember(lane, rows)
        return fragments

    @property
    def before(self) -> list[Rows]:
        """Each lane's last states, with which its next fragment may have to begin."""
        return self._before

    @before.setter
    def before(self, rows: list[Rows]) -> None:
        self._before = rows

    def _forget(self) -> None:
        self._rows, self._reached, self._live, self.steps = [], [], [], 0

    def _leads(self, lane: Index, rows: Rows) -> list[tuple[int, Rows]]:
        if not self._schema.history:
            return []
        firsts = np.flatnonzero(np.diff(lane, prepend=-1))
        leads = []
        for at in firsts.tolist():
            before = self._before[lane[at]]
            before = before[before["episode_id"] == rows["episode_id"][at]]
            if len(before) and rows["step"][at]:
                leads.append((at, before))
        return leads

    def _remember(self, lane: Index, rows: Rows) -> None:
        """Keep each lane's last states for the fragment to come."""
        history = self._schema.history
        if not history:
            return
        ends = np.flatnonzero(np.diff(lane, append=-1))
        starts = np.flatnonzero(np.diff(lane, prepend=-1))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            last = rows[end]
            own = rows[max(start, end + 1 - history) : end + 1]
            known = np.concatenate([self._before[lane[end]], own])[-history:]
            self._before[lane[end]] = known[known["episode_id"] == last["episode_id"]]


def assemble(
    schema: ReplaySchema,
    rows: Rows,
    reached: Rows,
    lane: Index,
    leads: list[tuple[int, Rows]] | None = None,
) -> Rows:
    """Fragments of steps: a closing row after each end of an episode or of a lane.

    Args:
        rows: (n,) steps, those of a lane side by side and in order.
        reached: (n,) the states after them.
        lane: (n,)
        leads: rows to put before steps, by the steps' position.
    """
    closes = rows["terminated"] | rows["truncated"]
    closes[:-1] |= (lane[1:] != lane[:-1]) | ~_follows(rows)
    closes[-1:] = True
    closed_before = np.cumsum(closes) - closes
    led = np.zeros(len(rows), dtype=np.int64)
    for at, states in leads or ():
        led[at] = len(states)
    where = np.arange(len(rows)) + closed_before + np.cumsum(led)
    fragments = schema.empty(len(rows) + int(closes.sum()) + int(led.sum()))
    fragments[where] = rows
    _put_states(schema, fragments, where[closes] + 1, reached[closes], CLOSING)
    fragments["episode_id"][where[closes] + 1] = rows["episode_id"][closes]
    fragments["step"][where[closes] + 1] = rows["step"][closes] + 1
    for at, states in leads or ():
        slots = where[at] - len(states) + np.arange(len(states))
        _put_states(schema, fragments, slots, states, LEAD)
        fragments["episode_id"][slots] = states["episode_id"]
        fragments["step"][slots] = states["step"]
    return fragments


def _follows(rows: Rows) -> Bools:
    """Whether each row but the first goes on where the one before it was: (n - 1,)"""
    episodes, steps = rows["episode_id"], rows["step"]
    follows: Bools = (episodes[1:] == episodes[:-1]) & (steps[1:] == steps[:-1] + 1)
    return follows


def _put_states(schema: ReplaySchema, into: Rows, slots: Index, states: Rows, kind: int) -> None:
    for field in schema.state:
        into[field.name][slots] = states[field.name]
    into["kind"][slots] = kind
