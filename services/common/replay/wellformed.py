"""Whether rows are whole fragments, as `schema` describes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.common.replay.schema import CLOSING, LEAD, STEP, ReplaySchema, Rows

Bools = npt.NDArray[np.bool_]
_KINDS = {STEP: "a step", CLOSING: "a closing row", LEAD: "a lead row"}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row: its position among those looked at, and why."""

    position: int
    reason: str


def first_fault(schema: ReplaySchema, rows: Rows) -> Fault | None:
    """The first row that cannot stand where it does, or None.

    Rows may begin within a fragment and end within one: what is before and after them is not
    judged.

    Args:
        rows: (n,) in the order in which they were appended.
    """
    unknown = np.flatnonzero(rows["kind"] > LEAD)
    if len(unknown):
        at = int(unknown[0])
        return _earlier(
            first_fault(schema, rows[:at]), Fault(at, f"is of kind {rows['kind'][at]}, unknown")
        )
    faults = [_misplaced(rows), _discontinuous(rows), _unclosed(rows), _long_lead(schema, rows)]
    return min((f for f in faults if f), key=lambda f: f.position, default=None)


def _earlier(one: Fault | None, other: Fault) -> Fault:
    return one if one is not None and one.position < other.position else other


def _misplaced(rows: Rows) -> Fault | None:
    """A fragment is leads, then steps, then one closing row."""
    before, after = rows["kind"][:-1], rows["kind"][1:]
    wrong = ((before == STEP) & (after == LEAD)) | ((before == LEAD) & (after == CLOSING))
    wrong |= (before == CLOSING) & (after == CLOSING)
    at = _first(wrong)
    if at is None:
        return None
    kinds = _KINDS[int(before[at])], _KINDS[int(after[at])]
    return Fault(at + 1, f"is {kinds[1]} after {kinds[0]}")


def _discontinuous(rows: Rows) -> Fault | None:
    """Within a fragment the episode stays, and steps count up."""
    before, after = rows[:-1], rows[1:]
    within = before["kind"] != CLOSING
    episode = _first(within & (before["episode_id"] != after["episode_id"]))
    step = _first(within & (before["step"].astype(np.int64) + 1 != after["step"]))
    if episode is not None and (step is None or episode <= step):
        one, other = before["episode_id"][episode], after["episode_id"][episode]
        return Fault(episode + 1, f"is of episode {other} within a fragment of episode {one}")
    if step is not None:
        one, other = before["step"][step], after["step"][step]
        return Fault(step + 1, f"is step {other} after step {one}")
    return None


def _unclosed(rows: Rows) -> Fault | None:
    """After an episode's end comes its closing row."""
    before, after = rows[:-1], rows[1:]
    ended = (before["kind"] == STEP) & (before["terminated"] | before["truncated"])
    at = _first(ended & (after["kind"] == STEP))
    return None if at is None else Fault(at + 1, "goes on with an episode that has ended")


def _long_lead(schema: ReplaySchema, rows: Rows) -> Fault | None:
    """No more states before a fragment's first step than a stack of frames reaches back to."""
    lead = rows["kind"] == LEAD
    counted = np.cumsum(lead)
    since = counted - np.maximum.accumulate(np.where(lead, 0, counted)) if len(rows) else counted
    at = _first(since > schema.history)
    return None if at is None else Fault(at, f"is a lead row too many ({schema.history} at most)")


def _first(wrong: Bools) -> int | None:
    found = np.flatnonzero(wrong)
    return int(found[0]) if len(found) else None
