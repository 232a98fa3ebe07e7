"""Values over time, and exploration over environments."""

from __future__ import annotations

import math

import pytest

from services.trainer.config import EpsilonConfig
from services.trainer.schedules import epsilons, linear


@pytest.mark.parametrize(
    ("share_done", "expected"), [(-1, 4), (0, 4), (0.25, 3.5), (1, 2), (1.5, 2)]
)
def test_a_straight_line_stays_between_its_ends(share_done: float, expected: float) -> None:
    assert linear(share_done, 4, 2) == pytest.approx(expected)


def test_exploration_decays_from_start_to_end() -> None:
    config = EpsilonConfig(start=1.0, end=0.1, decay=100)
    assert epsilons(0, config, 2).tolist() == pytest.approx([1.0, 1.0])
    # 0.1 + 0.9/e
    assert epsilons(100, config, 2).tolist() == pytest.approx([0.1 + 0.9 / math.e] * 2)
    assert epsilons(100_000, config, 2).tolist() == pytest.approx([0.1, 0.1])


def test_with_spread_each_environment_has_an_end_of_its_own() -> None:
    # 0.1/4, 0.1, 0.1·4
    config = EpsilonConfig(start=1.0, end=0.1, decay=1, spread=4)
    assert epsilons(10_000, config, 3).tolist() == pytest.approx([0.025, 0.1, 0.4])


def test_a_single_environment_has_the_middle() -> None:
    config = EpsilonConfig(start=1.0, end=0.1, decay=1, spread=4)
    assert epsilons(10_000, config, 1).tolist() == pytest.approx([0.1])
