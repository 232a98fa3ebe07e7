"""Running means and deviations by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from services.trainer.normalising import Normaliser, RewardScaler, RunningMoments


def test_moments_of_batches_are_those_of_all() -> None:
    moments = RunningMoments((1,))
    moments.update(np.array([[1.0], [3.0]]))
    assert (moments.mean[0], moments.variance[0]) == (2, 1)
    moments.update(np.array([[8.0]]))
    assert moments.count == 3
    assert moments.mean[0] == pytest.approx(4)  # of 1, 3, 8
    assert moments.variance[0] == pytest.approx((9 + 1 + 16) / 3)


def test_observations_are_normalised_by_all_that_was_seen() -> None:
    normaliser = Normaliser(2)
    first = torch.tensor([[5.0, -3.0]])
    assert normaliser(first).tolist() == first.tolist()
    normaliser.update(np.array([[1, 10], [3, 10]], np.float32))
    normaliser.update(np.array([[8, 10]], np.float32))
    deviation = np.sqrt(26 / 3)
    assert normaliser(torch.tensor([[4 + deviation, 10]])).tolist()[0] == pytest.approx([1, 0])
    assert normaliser(torch.tensor([[1e6, 11]])).tolist() == [[10, 10]]  # clipped


def test_a_normaliser_goes_on_from_its_state() -> None:
    one, other = Normaliser(1), Normaliser(1)
    one.update(np.array([[1], [3]], np.float32))
    other.load_state_dict(one.state_dict())
    for normaliser in (one, other):
        normaliser.update(np.array([[8]], np.float32))
    assert one(torch.tensor([[7.0]])).item() == other(torch.tensor([[7.0]])).item()


def test_rewards_are_divided_by_the_deviation_of_discounted_returns() -> None:
    rewards = np.array([[2], [4], [9], [6]], np.float32)
    ended = np.array([[False], [True], [False], [False]])
    live = np.array([[True], [True], [False], [True]])  # 9 is a reset's, and none
    scaler = RewardScaler(1, discount=0.5)
    scaled = scaler.scale(rewards, ended, live)
    deviation = np.std([2, 0.5 * 2 + 4, 6])
    np.testing.assert_allclose(scaled[[0, 1, 3], 0], np.array([2, 4, 6]) / deviation, rtol=1e-5)
    again = RewardScaler(1, discount=0.5)
    again.restore(scaler.state())
    scaler = RewardScaler(1, discount=0.5)
    scaler.restore(again.state())
    np.testing.assert_array_equal(
        scaler.scale(rewards, ended, live), again.scale(rewards, ended, live)
    )
