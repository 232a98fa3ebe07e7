"""Which row follows which. Slots are those of a ring; -1 is no successor."""

from __future__ import annotations

import numpy as np
from replay_rig import interleave, make_rows

from services.common.replay.schema import Rows
from services.common.replay.successors import Successors


def write(successors: Successors, first: int, rows: Rows) -> None:
    """Put rows into the slots from `first` on, round the ring."""
    successors.link(np.arange(first, first + len(rows)) % len(successors.next_slot), rows)


def test_steps_of_an_episode_follow_one_another() -> None:
    successors = Successors(4)
    write(successors, 0, make_rows(1, [0, 1, 2]))
    assert successors.next_slot.tolist() == [1, 2, -1, -1]


def test_an_episode_goes_on_in_the_next_chunk() -> None:
    successors = Successors(4)
    write(successors, 0, make_rows(1, [0, 1]))
    write(successors, 2, make_rows(1, [2, 3]))
    assert successors.next_slot.tolist() == [1, 2, 3, -1]


def test_interleaved_episodes_are_kept_apart() -> None:
    # slots: 0 = episode 1 step 0, 1 = episode 2 step 0, 2 = episode 1 step 1, …
    successors = Successors(6)
    write(successors, 0, interleave(make_rows(1, [0, 1]), make_rows(2, [0, 1])))
    write(successors, 4, interleave(make_rows(2, [2]), make_rows(1, [2])))
    assert successors.next_slot.tolist() == [2, 3, 5, 4, -1, -1]


def test_nothing_follows_an_end() -> None:
    successors = Successors(4)
    write(successors, 0, make_rows(1, [0, 1], terminated=1))
    write(successors, 2, make_rows(1, [2]))
    assert successors.next_slot.tolist() == [1, -1, -1, -1]


def test_a_step_that_is_missing_is_not_bridged() -> None:
    successors = Successors(4)
    write(successors, 0, make_rows(1, [0]))
    write(successors, 1, make_rows(1, [2, 3]))
    assert successors.next_slot.tolist() == [-1, 2, -1, -1]


def test_an_episode_goes_on_round_the_end_of_the_ring() -> None:
    successors = Successors(3)
    write(successors, 0, make_rows(1, [0, 1, 2]))
    write(successors, 3, make_rows(1, [3]))
    assert successors.next_slot.tolist() == [-1, 2, 0]


def test_a_row_that_was_overwritten_is_not_linked_on() -> None:
    # Episode 1 stands still while episode 2 fills the ring; slot 0 is episode 2's by then.
    successors = Successors(3)
    write(successors, 0, make_rows(1, [0]))
    write(successors, 1, make_rows(2, [0, 1, 2]))
    write(successors, 4, make_rows(1, [1]))
    assert successors.next_slot.tolist() == [-1, -1, 0]


def test_a_row_that_the_same_chunk_overwrites_is_not_linked_on() -> None:
    successors = Successors(3)
    write(successors, 0, make_rows(1, [0]))
    write(successors, 1, np.concatenate([make_rows(1, [1]), make_rows(2, [0, 1])]))
    assert successors.next_slot.tolist() == [-1, -1, 0]


def test_forgets_every_link() -> None:
    successors = Successors(3)
    write(successors, 0, make_rows(1, [0, 1]))
    successors.clear()
    write(successors, 0, make_rows(1, [2]))
    assert successors.next_slot.tolist() == [-1, -1, -1]
