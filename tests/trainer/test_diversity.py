"""Choosing a few rows that lie apart."""

from __future__ import annotations

import numpy as np
import pytest

from services.trainer.diversity import by_change_within, spread_out

SEEDS = range(20)


def clusters(count: int, size: int, seed: int = 0) -> np.ndarray:
    """`size` rows near each of `count` far points, cluster after cluster."""
    generator = np.random.default_rng(seed)
    centres = 100.0 * np.stack([np.arange(count), np.arange(count) % 3], axis=1)
    noise = generator.normal(0, 0.01, (count, size, 2))
    return (centres[:, None] + noise).reshape(-1, 2).astype(np.float32)


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_are_distinct_and_as_many_as_asked(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(200, 3)).astype(np.float32)
    chosen = spread_out(rows, 50, generator)
    assert len(set(chosen)) == len(chosen) == 50
    assert all(0 <= i < 200 for i in chosen)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_cluster_is_met_before_one_is_met_twice(seed: int) -> None:
    chosen = spread_out(clusters(6, 30), 6, np.random.default_rng(seed))
    assert sorted(i // 30 for i in chosen) == list(range(6))


def test_a_rare_row_is_not_missed_among_many_alike() -> None:
    rows = np.concatenate([clusters(1, 1000), np.full((1, 2), 50, np.float32)])
    for seed in SEEDS:
        assert 1000 in spread_out(rows, 2, np.random.default_rng(seed))


def test_rows_of_more_weight_are_drawn_more_readily() -> None:
    rows = np.linspace(0, 1, 400, dtype=np.float32)[:, None]
    weights = np.where(np.arange(400) < 200, 1.0, 9.0)
    drawn = [i for s in SEEDS for i in spread_out(rows, 40, np.random.default_rng(s), weights)]
    heavy = np.mean(np.array(drawn) >= 200)
    assert 0.6 < heavy < 0.9


def stretches(places: np.ndarray, tremble: np.ndarray) -> list[np.ndarray]:
    """20 steps at each place, (n, d), trembling by as much in each element, (d,)."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(len(places), 20, places.shape[1])) * tremble
    return list((places[:, None] + noise).astype(np.float32))


def test_elements_count_alike_whatever_their_units() -> None:
    # The first element is in thousandths, the second in thousands; each has two ends.
    ends = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    units = np.array([1e-3, 1e3])
    seen = stretches(np.repeat(ends, 25, axis=0) * units, 0.1 * units)
    for seed in SEEDS:
        chosen = spread_out(by_change_within(seen), 4, np.random.default_rng(seed))
        assert sorted(i // 25 for i in chosen) == [0, 1, 2, 3]


def test_what_trembles_within_a_stretch_does_not_tell_stretches_apart() -> None:
    # The first element lasts, the second trembles; standardised, their means would count alike.
    places = np.stack([np.linspace(0, 1, 200), np.zeros(200)], axis=1)
    features = by_change_within(stretches(places, np.array([0.02, 1.0])))
    lasting, trembling = features.std(axis=0)
    assert lasting > 20 * trembling


def test_what_hardly_changes_within_a_stretch_is_not_all_that_counts() -> None:
    places = np.stack([np.linspace(0, 1, 200), np.linspace(0, 1, 200)], axis=1)
    features = by_change_within(stretches(places, np.array([0.0, 0.1])))
    still, trembling = features.std(axis=0)
    assert 9 < still <= 10.1
    assert trembling > 2


def test_where_there_are_fewer_rows_than_asked_all_are_chosen() -> None:
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    assert sorted(spread_out(rows, 60, np.random.default_rng(0))) == [0, 1, 2, 3, 4]
    assert spread_out(rows[:1], 60, np.random.default_rng(0)) == [0]


def test_none_are_chosen_where_none_are_wanted_or_there_are_none() -> None:
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    assert spread_out(rows, 0, np.random.default_rng(0)) == []
    assert spread_out(rows[:0], 3, np.random.default_rng(0)) == []


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_element_says_nothing(constant: float) -> None:
    places = np.full((40, 2), constant)
    places[20:, 1] += 1
    features = by_change_within(stretches(places, np.zeros(2)))
    for seed in SEEDS:
        chosen = spread_out(features, 2, np.random.default_rng(seed))
        assert sorted(i // 20 for i in chosen) == [0, 1]


def test_rows_that_are_all_alike_are_one() -> None:
    rows = np.full((40, 3), 0.1, np.float32)
    assert len(spread_out(rows, 10, np.random.default_rng(0))) == 1


def test_the_same_generator_gives_the_same_rows() -> None:
    rows = clusters(5, 20)
    one, two = (spread_out(rows, 10, np.random.default_rng(7)) for _ in range(2))
    assert one == two
