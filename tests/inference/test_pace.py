"""What is known of how long runs take."""

from __future__ import annotations

import pytest

from services.inference.pace import Pace


def test_runs_take_what_the_warm_up_measured_to_begin_with() -> None:
    pace = Pace(1e-4, 1e-6)
    assert pace.of(1) == pytest.approx(1e-4)
    assert pace.of(65) == pytest.approx(1.64e-4)


def test_a_warm_up_on_a_busy_machine_is_put_right_by_one_run() -> None:
    pace = Pace(1e-3, 1e-5)
    pace.took(11, 1.1e-4)
    assert pace.of(1) == pytest.approx(1e-4)


def test_a_run_that_was_held_up_hardly_counts_and_slower_ones_do_in_time() -> None:
    pace = Pace(1e-4, 0)
    pace.took(1, 1.0)
    assert pace.of(1) == pytest.approx(1.01e-4)
    for _ in range(300):
        pace.took(1, 1e-3)
    assert pace.of(1) == pytest.approx(1e-3)
