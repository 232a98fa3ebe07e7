"""Choosing a few rows that lie apart."""

from __future__ import annotations

import numpy as np
import pytest

from services.trainer.diversity import spread_out

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


def test_columns_count_alike_whatever_their_units() -> None:
    # The first column is in thousandths, the second in thousands; each has two blurred ends.
    ends = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    blurred = np.repeat(ends, 25, axis=0) + np.random.default_rng(0).normal(0, 0.01, (100, 2))
    rows = (blurred * [1e-3, 1e3]).astype(np.float32)
    for seed in SEEDS:
        chosen = spread_out(rows, 4, np.random.default_rng(seed))
        assert sorted(i // 25 for i in chosen) == [0, 1, 2, 3]


def test_where_there_are_fewer_rows_than_asked_all_are_chosen() -> None:
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    assert sorted(spread_out(rows, 60, np.random.default_rng(0))) == [0, 1, 2, 3, 4]
    assert spread_out(rows[:1], 60, np.random.default_rng(0)) == [0]


def test_none_are_chosen_where_none_are_wanted_or_there_are_none() -> None:
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    assert spread_out(rows, 0, np.random.default_rng(0)) == []
    assert spread_out(rows[:0], 3, np.random.default_rng(0)) == []


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_column_says_nothing(constant: float) -> None:
    rows = np.full((40, 2), constant, np.float32)
    rows[20:, 1] += 1
    for seed in SEEDS:
        chosen = spread_out(rows, 2, np.random.default_rng(seed))
        assert sorted(i // 20 for i in chosen) == [0, 1]


def test_rows_that_are_all_alike_are_one() -> None:
    rows = np.full((40, 3), 0.1, np.float32)
    assert len(spread_out(rows, 10, np.random.default_rng(0))) == 1


def test_the_same_generator_gives_the_same_rows() -> None:
    rows = clusters(5, 20)
    one, two = (spread_out(rows, 10, np.random.default_rng(7)) for _ in range(2))
    assert one == two
