"""The sums of `make learn` and `make bench-train`, on arrays worked out by hand."""

from __future__ import annotations

import pytest
from learn_rows import load_rows, total_env_steps
from learn_statistics import binned, first_reached, interquartile_mean, stratified_bootstrap


def test_iqm_cuts_a_quarter_off_each_end():
    assert interquartile_mean([100, 1, 2, 3, 4, 5, 6, -100]) == pytest.approx(3.5)  # of 2 3 4 5
    assert interquartile_mean([0, 0, 1, 2, 3, 4, 5, 6, 9, 9]) == pytest.approx(3.5)  # 2 cut off
    assert interquartile_mean([1, 5, 3]) == pytest.approx(3)  # none is


def test_interval_of_equal_scores_is_a_point():
    assert stratified_bootstrap([[7, 7, 7]], interquartile_mean, resamples=50) == (7, 7)


def test_interval_of_two_scores_reaches_from_one_to_the_other():
    # Each is drawn twice with probability 1/4, which is more than 2.5%.
    assert stratified_bootstrap([[0, 10]], interquartile_mean, resamples=500) == (0, 10)


def test_each_stratum_is_drawn_from_by_itself():
    # Means of all draws would differ if a score could take another stratum's place.
    strata = [[0, 0], [10, 10]]
    assert stratified_bootstrap(strata, interquartile_mean, resamples=100) == (5, 5)


def test_bins_are_named_by_their_end():
    curve = binned([1, 10, 11, 35], [1.0, 3.0, 5.0, 7.0], width=10)
    assert curve == [(10, 2.0), (20, 5.0), (40, 7.0)]


def test_threshold_is_reached_by_the_mean_of_a_whole_window():
    assert first_reached([1, 2, 3, 4], [9, 0, 4, 6], threshold=5, window=2) == 4
    assert first_reached([1], [9], threshold=5, window=2) is None


@pytest.mark.parametrize("row", load_rows().values(), ids=lambda row: row.name)
def test_rows_train_within_their_steps(row):
    config = row.config(seed=1)
    assert config.environment.id == row.environment
    assert total_env_steps(config) <= row.steps
