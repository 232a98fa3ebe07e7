"""Actions of several components or elements: choices, draws and log-probabilities by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.common.action_space import Box, MultiDiscrete
from services.common.spec import Distribution, ObservationSpace, PolicySpec
from services.inference.distribution import normals, uniform_rows, uniforms
from services.inference.vectors import Decider, decider

PAIR = ObservationSpace(dtype="float32", shape=(2,))
SEEDS = np.arange(1, 4001, dtype=np.uint64)
ALL = np.ones(len(SEEDS), bool)


def made(action: Box | MultiDiscrete, distribution: Distribution) -> Decider:
    return decider(
        PolicySpec(
            environment="Probe-v0", observation=PAIR, action=action, distribution=distribution
        )
    )


CHOOSE = made(MultiDiscrete(nvec=(2, 3)), Distribution.LOGITS)
WIDE = Box(shape=(1,), low=(-2,), high=(2,))
CLIPPED = made(WIDE, Distribution.GAUSSIAN)
SQUASHED = made(WIDE, Distribution.TANH_GAUSSIAN)
LOGITS = np.log(np.array([[1, 3, 2, 1, 1]], np.float32))  # 1/4 3/4 | 1/2 1/4 1/4


def rows(*values: float, times: int = 1) -> np.ndarray:
    return np.repeat(np.array([values], np.float32), times, axis=0)


def test_each_component_takes_its_best() -> None:
    decided = CHOOSE(LOGITS)
    assert np.asarray(decided.actions).tolist() == [[1, 0]]
    assert decided.log_probabilities == pytest.approx([math.log(3 / 4 * 1 / 2)])
    assert np.exp(decided.table[0]) == pytest.approx([1 / 4, 3 / 4, 1 / 2, 1 / 4, 1 / 4])


def test_a_mask_binds_each_component() -> None:
    mask = np.array([[True, False, False, True, True]])
    decided = CHOOSE(LOGITS, masks=mask)
    assert np.asarray(decided.actions).tolist() == [[0, 1]]
    assert decided.log_probabilities == pytest.approx([math.log(1 / 2)])


def test_components_are_drawn_apart_and_as_often_as_they_are_probable() -> None:
    decided = CHOOSE(np.repeat(LOGITS, len(SEEDS), axis=0), sampled=ALL, seeds=SEEDS)
    actions = np.asarray(decided.actions)
    joint = np.zeros((2, 3))
    np.add.at(joint, (actions[:, 0], actions[:, 1]), 1 / len(SEEDS))
    expected = np.outer([1 / 4, 3 / 4], [1 / 2, 1 / 4, 1 / 4])
    np.testing.assert_allclose(joint, expected, atol=0.03)
    np.testing.assert_allclose(
        decided.log_probabilities, np.log(expected)[actions[:, 0], actions[:, 1]], atol=1e-6
    )


def test_the_first_number_of_a_seed_is_the_one_that_single_draws_use() -> None:
    np.testing.assert_array_equal(uniform_rows(SEEDS, 3)[:, 0], uniforms(SEEDS))


def test_normal_numbers_are_normal_and_apart() -> None:
    drawn = normals(SEEDS, 3)
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.06)
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(3), atol=0.06)
    assert abs(np.mean(drawn**4) - 3) < 0.3


def test_greedy_is_the_mean_in_the_boxs_own_units() -> None:
    decided = CLIPPED(rows(0.25, math.log(0.5)))
    assert np.asarray(decided.actions).tolist() == [[0.5]]
    # The density at the mean: 1 / (σ·√(2π)) a normalised unit, and half that a unit of the Box.
    density = 1 / (0.5 * math.sqrt(2 * math.pi)) / 2
    assert decided.log_probabilities == pytest.approx([math.log(density)])


def test_a_draw_beyond_a_bound_counts_with_all_that_is() -> None:
    decided = CLIPPED(rows(0.5, 0, times=len(SEEDS)), sampled=ALL, seeds=SEEDS)
    actions = np.asarray(decided.actions)[:, 0]
    log_probability = np.array(decided.log_probabilities)
    above = 1 - 0.69146  # Φ(0.5): the share of N(0.5, 1) below 1
    assert np.mean(actions == 2) == pytest.approx(above, abs=0.03)
    assert log_probability[actions == 2] == pytest.approx(math.log(above), abs=1e-4)
    below = 0.0668072  # Φ(-1.5)
    assert log_probability[actions == -2] == pytest.approx(math.log(below), abs=1e-4)
    inside = np.abs(actions) < 2
    z = actions[inside] / 2 - 0.5
    expected = -(z**2) / 2 - math.log(math.sqrt(2 * math.pi)) - math.log(2)
    np.testing.assert_allclose(log_probability[inside], expected, atol=1e-5)


def test_far_beyond_a_bound_the_probability_is_still_a_number() -> None:
    decided = CLIPPED(rows(-90, 0), sampled=np.array([True]), seeds=SEEDS[:1])
    assert decided.log_probabilities == pytest.approx([0], abs=1e-9)
    # 40 deviations off the greedy action's own side it is not: log Φ(-z) ≈ -z²/2 - log z - …
    greedy = CLIPPED(rows(1 + 1e-9, math.log(1e-3)))
    assert greedy.log_probabilities == pytest.approx([math.log(0.5)], abs=1e-3)


def test_squashed_by_tanh_by_hand() -> None:
    decided = SQUASHED(rows(0.5, math.log(0.3)))
    action = 2 * math.tanh(0.5)
    assert np.asarray(decided.actions)[0, 0] == pytest.approx(action)
    slope = 2 * (1 - math.tanh(0.5) ** 2)  # of the action by what is squashed
    density = 1 / (0.3 * math.sqrt(2 * math.pi)) / slope
    assert decided.log_probabilities == pytest.approx([math.log(density)])


def test_squashed_densities_integrate_to_one() -> None:
    points = np.linspace(-1.9999, 1.9999, 20001)
    u = np.arctanh(points / 2)
    z = (u - 0.4) / 0.8
    decided = SQUASHED(rows(0.4, math.log(0.8), times=len(SEEDS)), sampled=ALL, seeds=SEEDS)
    drawn = np.asarray(decided.actions, float)[:, 0]
    density = np.exp(-(z**2) / 2) / (0.8 * math.sqrt(2 * math.pi)) / (2 * (1 - (points / 2) ** 2))
    assert np.trapezoid(density, points) == pytest.approx(1, abs=1e-3)
    expected = np.interp(drawn, points, np.log(density))
    np.testing.assert_allclose(decided.log_probabilities, expected, atol=0.02)


@pytest.mark.parametrize("decide", [CLIPPED, SQUASHED])
def test_the_temperature_multiplies_the_variance(decide: Decider) -> None:
    hot = np.full(len(SEEDS), 4.0)
    tepid = rows(0.1, math.log(0.05), times=len(SEEDS))
    warm = decide(tepid, sampled=ALL, seeds=SEEDS, temperatures=hot)
    doubled = rows(0.1, math.log(0.1), times=len(SEEDS))
    plain = decide(doubled, sampled=ALL, seeds=SEEDS)
    np.testing.assert_allclose(warm.actions, plain.actions, rtol=1e-5)
    np.testing.assert_allclose(warm.log_probabilities, plain.log_probabilities, atol=1e-5)


@pytest.mark.parametrize("decide", [CLIPPED, SQUASHED])
def test_a_row_does_not_depend_on_its_company(decide: Decider) -> None:
    generator = np.random.default_rng(0)
    parameters = generator.normal(size=(37, 2)).astype(np.float32)
    sampled = generator.random(37) < 0.7
    together = decide(parameters, sampled=sampled, seeds=SEEDS[:37])
    for i in range(37):
        own = slice(i, i + 1)
        alone = decide(parameters[own], sampled=sampled[own], seeds=SEEDS[own])
        assert np.asarray(alone.actions)[0] == np.asarray(together.actions)[i]
        assert alone.log_probabilities[0] == together.log_probabilities[i]


def test_a_deterministic_policys_action_is_its_output() -> None:
    decide = made(Box(shape=(2, 1), low=(-2, -2), high=(2, 2)), Distribution.DETERMINISTIC)
    decided = decide(np.array([[0.5, -1]], np.float32))
    assert np.asarray(decided.actions).tolist() == [[[0.5], [-1]]]
    assert decided.log_probabilities == [0.0]
