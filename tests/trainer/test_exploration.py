"""ε-greedy: what is chosen, how often, and the log-probability that is told of it."""

from __future__ import annotations

import numpy as np
import pytest

from services.trainer.exploration import EpsilonGreedy

VALUES = np.array([[0.0, 1.0, 0.5, 0.0]] * 1000, np.float32)  # action 1 is best


def explorer(repeat: float = 1.0, count: int = len(VALUES)) -> EpsilonGreedy:
    return EpsilonGreedy(count, repeat, np.random.default_rng(0))


def test_without_exploration_the_best_is_certain() -> None:
    choice = explorer().choose(VALUES, np.zeros(len(VALUES)))
    assert set(choice.actions.tolist()) == {1}
    np.testing.assert_allclose(choice.log_probabilities, 0)


def test_plain_epsilon_greedy_tells_its_probabilities() -> None:
    # ε = 0.4 over 4 actions: 0.1 each, and 0.6 more for the best
    choice = explorer().choose(VALUES, np.full(len(VALUES), 0.4))
    best = choice.actions == 1
    np.testing.assert_allclose(np.exp(choice.log_probabilities[best]), 0.7, rtol=1e-5)
    np.testing.assert_allclose(np.exp(choice.log_probabilities[~best]), 0.1, rtol=1e-5)
    assert best.mean() == pytest.approx(0.7, abs=0.05)


def test_everything_random_is_even() -> None:
    choice = explorer().choose(VALUES, np.ones(len(VALUES)))
    np.testing.assert_allclose(np.exp(choice.log_probabilities), 0.25, rtol=1e-5)
    assert np.bincount(choice.actions, minlength=4).min() > 200


def test_each_environment_has_its_own_epsilon() -> None:
    epsilons = np.repeat([0.0, 1.0], len(VALUES) // 2)
    actions = explorer().choose(VALUES, epsilons).actions
    assert set(actions[:500].tolist()) == {1}
    assert set(actions[500:].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("repeat", [1.0, 4.0])
def test_epsilon_is_the_share_of_exploratory_steps_however_long_they_last(repeat: float) -> None:
    acting, epsilons = explorer(repeat), np.full(len(VALUES), 0.4)
    off = [(acting.choose(VALUES, epsilons).actions != 1).mean() for _ in range(200)]
    # Three of four random actions are not the best.
    assert np.mean(off[50:]) == pytest.approx(0.4 * 0.75, abs=0.02)


def test_an_action_that_is_held_is_certain_while_it_lasts() -> None:
    acting, epsilons = explorer(repeat=1000.0, count=1000), np.full(1000, 0.9)
    for _ in range(50):
        before = acting.choose(VALUES, epsilons)
    after = acting.choose(VALUES, epsilons)
    held = (before.actions != 1) & (after.actions == before.actions)
    assert held.mean() > 0.01
    np.testing.assert_allclose(after.log_probabilities[held], 0)


MASKS = np.tile([True, False, True, False], (len(VALUES), 1))  # the best, 1, is forbidden


def test_what_is_forbidden_is_not_chosen_and_what_remains_shares_its_probability() -> None:
    # ε = 0.4 over 2 actions: 0.2 each, and 0.6 more for the best of them
    choice = explorer().choose(VALUES, np.full(len(VALUES), 0.4), MASKS)
    assert set(choice.actions.tolist()) == {0, 2}
    best = choice.actions == 2
    np.testing.assert_allclose(np.exp(choice.log_probabilities[best]), 0.8, rtol=1e-5)
    np.testing.assert_allclose(np.exp(choice.log_probabilities[~best]), 0.2, rtol=1e-5)
    assert best.mean() == pytest.approx(0.8, abs=0.05)


def test_a_held_action_is_let_go_when_it_is_forbidden() -> None:
    acting = explorer(repeat=1000.0)
    before = acting.choose(VALUES, np.full(len(VALUES), 0.99)).actions
    after = acting.choose(VALUES, np.zeros(len(VALUES)), MASKS).actions
    held = np.isin(before, [0, 2])
    assert held.any()
    assert not held.all()
    assert after[~held].tolist() == [2] * int((~held).sum())
    assert set(after[held].tolist()) == {0, 2}
