"""Figures of predicted preferences, against values known otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from services.trainer.reward.calibration import (
    Bin,
    expected_calibration_error,
    reliability,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [
        (81, 263, (0.2553, 0.3662)),  # Newcombe 1998, table I, method 3
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (29, 29, (0.8830, 1.0000)),  # 1 - 3.8415/(29 + 3.8415)
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilsons_interval(successes: int, trials: int, interval: tuple[float, float]) -> None:
    assert wilson_interval(successes, trials) == pytest.approx(interval, abs=5e-5)


def test_predictions_are_gathered_in_bins_of_equal_width() -> None:
    predicted = np.array([0.1, 0.3, 0.6, 0.9, 1.0])
    observed = np.array([0.0, 1.0, 1.0, 1.0, 1.0])
    low, high = reliability(predicted, observed, bins=2)
    assert (low.predicted, low.observed, low.count) == pytest.approx((0.2, 0.5, 2))
    assert (high.predicted, high.observed, high.count) == pytest.approx((2.5 / 3, 1.0, 3))


def test_empty_bins_are_left_out() -> None:
    assert reliability(np.array([0.95]), np.array([1.0]), bins=10) == [Bin(0.95, 1.0, 1)]
    assert reliability(np.array([]), np.array([]), bins=10) == []


def test_the_calibration_error_weighs_bins_by_their_counts() -> None:
    # (2·|0.2 - 0.5| + 3·|0.8 - 1|) / 5 = (0.6 + 0.6) / 5
    bins = [Bin(0.2, 0.5, 2), Bin(0.8, 1.0, 3)]
    assert expected_calibration_error(bins) == pytest.approx(0.24)
    assert expected_calibration_error([]) == 0.0
