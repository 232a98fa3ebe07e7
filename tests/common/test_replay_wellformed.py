"""Rows that cannot stand where they do are found, by the first of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from replay_rig import make_rows

from services.common.replay.schema import CLOSING, LEAD, ReplaySchema, Rows
from services.common.replay.wellformed import first_fault

FRAMES = ReplaySchema.transitions((2,), "uint8", stack=3)


def rows() -> Rows:
    """Steps 0 to 3 and a closing row, then episode 2's 0 to 1, ended, and its closing row."""
    return np.concatenate([make_rows(1, range(4)), make_rows(2, range(2), terminated=1)])


def test_whole_fragments_have_no_fault_wherever_one_begins_to_look() -> None:
    good = rows()
    for first in range(len(good)):
        for end in range(first, len(good) + 1):
            assert first_fault(ReplaySchema.transitions((1,), "float32"), good[first:end]) is None


@pytest.mark.parametrize(
    ("spoil", "position", "reason"),
    [
        (lambda r: r["kind"].__setitem__(2, 7), 2, "is of kind 7"),
        (lambda r: r["kind"].__setitem__(5, CLOSING), 5, "a closing row after a closing row"),
        (lambda r: r["kind"].__setitem__(3, LEAD), 3, "a lead row after a step"),
        (lambda r: r["kind"].__setitem__(0, LEAD), 0, "a lead row too many (0 at most)"),
        (lambda r: r["step"].__setitem__(2, 9), 2, "is step 9 after step 1"),
        (lambda r: r["step"].__setitem__(4, 0), 4, "is step 0 after step 3"),
        (lambda r: r["episode_id"].__setitem__(1, 3), 1, "is of episode 3 within a fragment of"),
        (lambda r: r["terminated"].__setitem__(1, True), 2, "goes on with an episode"),
        (lambda r: r["truncated"].__setitem__(0, True), 1, "goes on with an episode"),
    ],
)
def test_the_first_fault_is_told(spoil: Callable[[Rows], None], position: int, reason: str) -> None:
    spoiled = rows()
    spoil(spoiled)
    fault = first_fault(ReplaySchema.transitions((1,), "float32"), spoiled)
    assert fault is not None
    assert fault.position == position
    assert reason in fault.reason


def test_a_fault_before_a_row_of_unknown_kind_comes_first() -> None:
    spoiled = rows()
    spoiled["kind"][6] = 9
    spoiled["step"][1] = 5
    fault = first_fault(ReplaySchema.transitions((1,), "float32"), spoiled)
    assert fault is not None
    assert (fault.position, fault.reason) == (1, "is step 5 after step 0")


def test_as_many_lead_rows_as_stacks_reach_back_to() -> None:
    good = make_rows(1, range(5, 8), schema=FRAMES)
    assert (good["kind"] == LEAD).sum() == 2
    assert first_fault(FRAMES, good) is None
    one_more = np.concatenate([good[:1], good])
    one_more["step"][0] -= 1
    fault = first_fault(FRAMES, one_more)
    assert fault is not None
    assert (fault.position, fault.reason) == (2, "is a lead row too many (2 at most)")
