"""What `make learn` keeps, and shows of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from learn_report import line_of
from learn_results import Results, reached, summarise
from learn_rows import load_rows

ROW = replace(load_rows()["cartpole-dqn"], seeds=2, iqm=495, every_seed=450)


def outcome(seed: int, published: float) -> dict:
    return {
        "seed": seed,
        "env_steps": 50_000,
        "wall_s": 60.0,
        "evaluation": {"episodes": 20, "steps": 9_000, "wall_s": 1.0},
        "published": {"version": 1, "env_steps": 40_000, "returns": [published, published]},
        "final": {"env_steps": 50_000, "returns": [400.0, 500.0]},
    }


@pytest.fixture
def results(tmp_path):
    results = Results(ROW, {"commit": "abc"}, tmp_path)
    results.add(outcome(1, published=500.0))
    return results


def test_seeds_that_are_there_are_not_missing(results, tmp_path):
    again = Results(ROW, {}, tmp_path)
    assert again.missing(3) == [0, 2]
    assert again.seeds == results.seeds == [{"commit": "abc", **outcome(1, 500.0)}]


def test_seeds_of_another_configuration_do_not_count(results, tmp_path):
    changed = replace(ROW, overrides={"dqn.total_env_steps": 10})
    assert Results(changed, {}, tmp_path).missing(2) == [0, 1]


def test_a_row_is_judged_only_with_all_its_seeds(results):
    alone = summarise(results.seeds, "published")
    assert (alone.iqm, alone.interval, alone.lowest) == (500, (500, 500), 500)
    assert reached(ROW, alone, 1) is None
    assert reached(ROW, alone, 2) is True


def test_one_seed_below_what_each_must_reach_is_short(results):
    results.add(outcome(0, published=440.0))
    published = summarise(results.seeds, "published")
    assert reached(replace(ROW, iqm=400), published, 2) is False
    assert reached(replace(ROW, iqm=400, every_seed=None), published, 2) is True


def test_the_table_shows_published_and_final_apart(results):
    line = line_of(ROW, results.seeds)
    assert "| 1 of 2 | 500.0 (500.0 to 500.0) | 500.0 | 450.0 (450.0 to 450.0) |" in line
    assert "50,000 of 50,000 | 9,000 | 60 s" in line
