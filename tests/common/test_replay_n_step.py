"""n-step transitions by hand.

In step t the reward is t + 1 (see replay_rig). With γ = 0.5, three steps from step 0 are worth
1 + 0.5·2 + 0.25·3 = 2.75, and what follows counts 0.125.
"""

from __future__ import annotations

import numpy as np
import pytest
from replay_rig import SCHEMA, interleave, make_rows

from services.common.replay.n_step import NStepBatch, n_step_batch
from services.common.replay.schema import Rows
from services.common.replay.successors import Successors


def look_ahead(rows: Rows, slots: list[int], n: int, capacity: int = 16) -> NStepBatch:
    """n-step transitions of some slots, after rows were written from slot 0 on, one by one."""
    ring = SCHEMA.empty(capacity)
    successors = Successors(capacity)
    for i in range(len(rows)):
        slot = np.array([i % capacity])
        ring[slot] = rows[i : i + 1]
        successors.link(slot, rows[i : i + 1])
    return n_step_batch(ring, successors.next_slot, np.array(slots), n, 0.5)


def test_one_step_is_the_row_itself() -> None:
    batch = look_ahead(make_rows(1, range(3)), [0, 1], n=1)
    assert batch.observation[:, 0].tolist() == [100, 101]
    assert batch.action.tolist() == [0, 1]
    assert batch.reward.tolist() == [1, 2]
    assert batch.discount.tolist() == [0.5, 0.5]
    assert batch.next_observation[:, 0].tolist() == [101, 102]


def test_three_steps_within_an_episode() -> None:
    batch = look_ahead(make_rows(1, range(6)), [0, 1], n=3)
    # step 1: 2 + 0.5·3 + 0.25·4 = 4.5
    assert batch.reward.tolist() == [2.75, 4.5]
    assert batch.discount.tolist() == [0.125, 0.125]
    assert batch.observation[:, 0].tolist() == [100, 101]
    assert batch.next_observation[:, 0].tolist() == [103, 104]


def test_a_termination_ends_the_sum_and_nothing_is_bootstrapped() -> None:
    batch = look_ahead(make_rows(1, range(3), terminated=2), [0, 1, 2], n=3)
    # steps 1 and 2: 2 + 0.5·3 = 3.5, and 3
    assert batch.reward.tolist() == [2.75, 3.5, 3]
    assert batch.discount.tolist() == [0, 0, 0]


def test_a_truncation_ends_the_sum_and_its_last_state_is_bootstrapped() -> None:
    batch = look_ahead(make_rows(1, range(3), truncated=2), [0, 1, 2], n=3)
    assert batch.reward.tolist() == [2.75, 3.5, 3]
    assert batch.discount.tolist() == [0.125, 0.25, 0.5]
    assert batch.next_observation[:, 0].tolist() == [103, 103, 103]


def test_a_step_both_terminated_and_truncated_is_terminal() -> None:
    batch = look_ahead(make_rows(1, range(2), terminated=1, truncated=1), [0], n=3)
    assert (batch.reward.tolist(), batch.discount.tolist()) == ([2.0], [0.0])


def test_the_next_episode_is_not_looked_into() -> None:
    rows = np.concatenate([make_rows(1, [0, 1], truncated=1), make_rows(2, [0, 1, 2])])
    batch = look_ahead(rows, [0, 1], n=3)
    assert batch.reward.tolist() == [2, 2]
    assert batch.next_observation[:, 0].tolist() == [102, 102]


def test_at_the_newest_row_fewer_steps_are_taken_and_bootstrapped() -> None:
    batch = look_ahead(make_rows(1, range(3)), [1, 2], n=3)
    assert batch.reward.tolist() == [3.5, 3]
    assert batch.discount.tolist() == [0.25, 0.5]
    assert batch.next_observation[:, 0].tolist() == [103, 103]


def test_interleaved_environments_are_followed_each_for_itself() -> None:
    rows = interleave(make_rows(1, range(3)), make_rows(2, range(3), terminated=1))
    batch = look_ahead(rows, [0, 1], n=3)
    assert batch.reward.tolist() == [2.75, 2]
    assert batch.discount.tolist() == [0.125, 0]
    assert batch.next_observation[:, 0].tolist() == [103, 202]


def test_round_the_end_of_the_ring() -> None:
    # Of steps 0 to 5, the ring of 4 holds 4 and 5 in slots 0 and 1, and 2 and 3 in 2 and 3.
    batch = look_ahead(make_rows(1, range(6)), [2], n=3, capacity=4)
    assert batch.reward.tolist() == [3 + 0.5 * 4 + 0.25 * 5]
    assert batch.next_observation[:, 0].tolist() == [105]


@pytest.mark.parametrize("n", [5, 50])
def test_looking_ahead_further_than_there_is_takes_what_there_is(n: int) -> None:
    batch = look_ahead(make_rows(1, range(4)), [0], n=n)
    # 1 + 0.5·2 + 0.25·3 + 0.125·4
    assert batch.reward.tolist() == [3.25]
    assert batch.discount.tolist() == [0.0625]
