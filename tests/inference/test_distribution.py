"""Choosing actions: answers worked out by hand, and independence from the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from services.inference.distribution import (
    decide,
    log_probabilities,
    row_seeds,
    sample,
    splitmix64,
    uniforms,
)

SEEDS = st.integers(0, 2**64 - 1)


def test_greedy_takes_the_greatest_and_the_first_of_equals() -> None:
    decisions = decide(np.array([[1, 3, 2], [5, 5, 1]], dtype=np.float32))

    assert decisions.actions == [1, 0]
    total = np.exp([1.0, 3.0, 2.0]).sum()
    assert decisions.log_probabilities[0] == pytest.approx(3 - np.log(total))


def test_the_mask_takes_actions_out_of_choice_and_distribution() -> None:
    masks = np.array([[True, False, True]])
    decisions = decide(np.array([[1, 3, 1]], dtype=np.float32), masks=masks)

    assert decisions.actions == [0]
    assert np.exp(decisions.table[0]).tolist() == [0.5, 0.0, 0.5]


def test_temperature_divides_before_softmax() -> None:
    table = log_probabilities(np.array([[0.0, 2.0]]), np.array([2.0]))

    assert np.exp(table[0]) == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)])


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e308])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    parameters = np.array([[-3e38, 3e38, 0.0]], dtype=np.float32)
    decisions = decide(parameters, temperatures=np.array([temperature]))

    assert decisions.actions == [1]
    assert np.isfinite(decisions.log_probabilities).all()


def test_a_hot_temperature_does_not_blur_the_greedy_choice() -> None:
    decisions = decide(
        np.array([[1.0, 1.0000001]], dtype=np.float32), temperatures=np.array([1e300])
    )

    assert decisions.actions == [1]


def test_splitmix64_gives_the_published_sequence() -> None:
    # The first outputs of the reference generator seeded with 1234567.
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * golden) % 2**64 for i in range(3)], dtype=np.uint64)

    assert splitmix64(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_draws_follow_the_probabilities() -> None:
    probabilities = np.array([0.1, 0.0, 0.6, 0.3])
    seeds = np.arange(1, 20_001, dtype=np.uint64)
    with np.errstate(divide="ignore"):
        table = np.tile(np.log(probabilities), (len(seeds), 1))

    shares = np.bincount(sample(table, seeds), minlength=4) / len(seeds)

    assert shares == pytest.approx(probabilities, abs=0.012)  # 4 standard deviations
    assert shares[1] == 0


def test_uniforms_are_in_the_half_open_unit_interval() -> None:
    numbers = uniforms(np.arange(10_000, dtype=np.uint64))

    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.012)


@given(seed=SEEDS, rows=st.integers(1, 300))
def test_row_seeds_start_with_the_seed_and_are_never_0_after_it(seed: int, rows: int) -> None:
    seeds = row_seeds(seed, rows)

    assert int(seeds[0]) == seed
    assert (seeds[1:] != 0).all()
    assert len(set(seeds.tolist())) == rows
    assert row_seeds(seed, rows + 5)[:rows].tolist() == seeds.tolist()


@given(
    parameters=arrays(
        np.float32,
        st.tuples(st.integers(1, 17), st.integers(1, 9)),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    data=st.data(),
)
def test_a_row_is_decided_alike_alone_and_in_company(parameters: np.ndarray, data: object) -> None:
    rows, actions = parameters.shape
    generator = np.random.default_rng(data.draw(SEEDS))
    masks = generator.random((rows, actions)) < 0.7
    masks[np.arange(rows), generator.integers(actions, size=rows)] = True
    temperatures = generator.uniform(0.1, 10, rows)
    sampled = generator.random(rows) < 0.5
    seeds = generator.integers(0, 2**64, rows, dtype=np.uint64)

    together = decide(
        parameters, masks=masks, temperatures=temperatures, sampled=sampled, seeds=seeds
    )

    for i in range(rows):
        row = slice(i, i + 1)
        alone = decide(
            parameters[row],
            masks=masks[row],
            temperatures=temperatures[row],
            sampled=sampled[row],
            seeds=seeds[row],
        )
        assert masks[i, alone.actions[0]]
        assert alone.actions[0] == together.actions[i]
        assert alone.log_probabilities[0] == together.log_probabilities[i]
        assert alone.table[0].tobytes() == together.table[i].tobytes()


def test_an_epsilon_greedy_choice_spreads_epsilon_over_what_is_allowed() -> None:
    values = np.array([[1, 3, 2]] * 4, dtype=np.float32)
    masks = np.array([[True] * 3, [True, False, True], [True] * 3, [True] * 3])
    epsilons = np.array([0.3, 0.3, 0.0, np.nan])
    seeds = np.full(4, 5, dtype=np.uint64)
    sampled = np.array([True, True, True, False])
    decisions = decide(values, masks=masks, sampled=sampled, seeds=seeds, epsilons=epsilons)

    chances = np.exp(decisions.table)
    assert chances[0] == pytest.approx([0.1, 0.8, 0.1])
    assert chances[1] == pytest.approx([0.15, 0.0, 0.85])
    assert chances[2].tolist() == [0, 1, 0]
    assert chances[3] == pytest.approx(np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum())
    assert decisions.actions[2:] == [1, 1]


def test_epsilon_greedy_draws_follow_their_probabilities() -> None:
    rows = 20_000
    values = np.tile(np.array([0, 2, 1], dtype=np.float32), (rows, 1))
    decisions = decide(
        values,
        sampled=np.ones(rows, dtype=np.bool_),
        seeds=row_seeds(3, rows),
        epsilons=np.full(rows, 0.6),
    )
    counts = np.bincount(decisions.actions, minlength=3) / rows
    assert counts == pytest.approx([0.2, 0.6, 0.2], abs=0.01)
    chosen = np.array([0.2, 0.6, 0.2])[decisions.actions]
    assert np.exp(decisions.log_probabilities) == pytest.approx(chosen)
