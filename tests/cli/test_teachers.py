"""Scripted teachers, whose judgements are known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.cli.teachers import TEACHERS, Teacher, find_teacher, observations
from services.common.errors import InvalidInput
from tutelage.v1 import feedback_pb2 as pb

LEFT, RIGHT, TIE = pb.CHOICE_LEFT, pb.CHOICE_RIGHT, pb.CHOICE_TIE
STEPS = 10


def cart_at(*positions: float) -> np.ndarray:
    """CartPole's observations with the cart at these places, step by step."""
    seen = np.zeros((len(positions), 4), np.float32)
    seen[:, 0] = positions
    return seen


def judge(teacher: str, left: np.ndarray, right: np.ndarray, seed: int = 0) -> int:
    return TEACHERS[teacher].judge(left, right, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("teacher", "left", "right", "expected"),
    [
        ("cart-at-one", 1.0, 0.0, LEFT),
        ("cart-at-one", 0.0, 1.0, RIGHT),
        ("cart-at-one", -2.0, 2.0, RIGHT),
        ("cart-at-one", 0.5, 2.0, LEFT),
        ("cart-at-one", 0.0, 2.0, TIE),  # as far from 1 on either side
        ("cart-at-one", 1.01, 1.0, TIE),  # too close to tell
        ("cart-centred", 1.0, 0.0, RIGHT),
        ("cart-centred", 0.5, -2.0, LEFT),
        ("cart-centred", -1.0, 1.0, TIE),
    ],
)
def test_where_the_cart_is_decides(teacher: str, left: float, right: float, expected: int) -> None:
    for seed in range(20):
        found = judge(teacher, cart_at(*[left] * STEPS), cart_at(*[right] * STEPS), seed)
        assert found == expected


def test_a_segment_is_worth_the_mean_over_its_steps() -> None:
    likes = TEACHERS["cart-at-one"].likes
    assert likes(cart_at(0.0, 1.0, 2.0, 3.0)) == pytest.approx(-(1 + 0 + 1 + 2) / 4)
    # Nothing but the cart's place counts, and not how long it is watched.
    elsewhere = cart_at(0.0, 1.0, 2.0, 3.0)
    elsewhere[:, 1:] = 7
    assert likes(elsewhere) == likes(cart_at(0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0))


def share_of_errors(difference: float) -> float:
    teacher = Teacher("", likes=lambda seen: float(seen[0, 0]), tie_within=0.0, carelessness=0.5)
    generator, trials = np.random.default_rng(0), 4000
    given = [teacher.judge(cart_at(difference), cart_at(0.0), generator) for _ in range(trials)]
    assert TIE not in given
    return given.count(RIGHT) / trials


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_the_closer_the_two_the_more_often_the_worse_is_preferred(ratio: float) -> None:
    expected = 1 / (1 + math.exp(ratio))
    # Four standard errors.
    margin = 4 * math.sqrt(expected * (1 - expected) / 4000)
    assert share_of_errors(0.5 * ratio) == pytest.approx(expected, abs=margin)


def test_a_difference_however_large_is_no_overflow() -> None:
    assert share_of_errors(1e6) == 0


def test_the_same_seed_errs_in_the_same_places() -> None:
    pairs = np.random.default_rng(1).uniform(0.9, 1.1, (200, 2))
    given = [
        [judge("cart-at-one", cart_at(a), cart_at(b), seed) for a, b in pairs] for seed in (3, 3, 4)
    ]
    assert given[0] == given[1] != given[2]


def test_observations_are_read_from_a_segment() -> None:
    seen = np.arange(12, dtype="<f4").reshape(3, 4)
    segment = pb.Segment(length=3, observation_shape=[4], observations=seen.tobytes())
    np.testing.assert_array_equal(observations(segment), seen)


def test_an_unknown_teacher_is_told_who_there_is() -> None:
    assert find_teacher("cart-at-one") is TEACHERS["cart-at-one"]
    with pytest.raises(InvalidInput, match="there are: cart-at-one, cart-centred"):
        find_teacher("cart")
