"""Evaluation: one episode of each environment, whatever their lengths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.common.action_space import Discrete
from services.common.errors import InvalidConfig
from services.common.spec import Distribution
from services.trainer import environments
from services.trainer.config import EnvironmentConfig, load_preset, preset_names
from services.trainer.evaluate import STEPS_SEEN, evaluate

CARTPOLE = EnvironmentConfig(id="CartPole-v1")


def right(observations: np.ndarray) -> np.ndarray:
    """Always push right."""
    return np.ones(len(observations), np.int64)


def balance(observations: np.ndarray) -> np.ndarray:
    """Push where the pole falls."""
    return (observations[:, 2] + observations[:, 3] > 0).astype(np.int64)


@pytest.mark.parametrize("cut", [False, True])
def test_each_environment_counts_one_episode(cut: bool) -> None:
    corridor = EnvironmentConfig(id="ProbeCorridor-v0", kwargs={"length": 3, "cut": cut})
    judged = evaluate(right, corridor, episodes=5, seed=0)
    assert judged.returns.tolist() == [6.0] * 5
    assert judged.summary.episodes == 5
    assert math.isnan(judged.mean_step_reward)


def test_short_episodes_are_not_favoured() -> None:
    judged = evaluate(right, CARTPOLE, episodes=20, seed=0)
    assert (judged.summary.min_return, judged.summary.max_return) == (
        judged.returns.min(),
        judged.returns.max(),
    )
    assert 8 <= judged.summary.min_return < judged.summary.max_return <= 12


def test_a_truncated_episode_ends_it_too() -> None:
    judged = evaluate(balance, CARTPOLE, episodes=3, seed=0)
    assert judged.summary.max_return <= 500


def test_the_extra_reward_is_the_mean_over_all_steps() -> None:
    corridor = EnvironmentConfig(id="ProbeCorridor-v0", kwargs={"length": 3})
    judged = evaluate(
        right, corridor, episodes=5, seed=0, step_reward=lambda o, a: o[:, 0] + 10 * a
    )
    # Steps 0, 1 and 2 of action 1: (10 + 11 + 12) / 3
    assert judged.mean_step_reward == pytest.approx(11)


def test_what_was_seen_is_given_for_parity_checks() -> None:
    judged = evaluate(right, CARTPOLE, episodes=2, seed=0)
    assert judged.observations.shape[1:] == (4,)
    assert len(judged.observations) >= 8


def test_of_long_episodes_a_share_is_given() -> None:
    steps = 10 * STEPS_SEEN
    judged = evaluate(
        lambda seen: np.zeros(len(seen), np.int64),
        EnvironmentConfig(id="ProbeCorridor-v0", kwargs={"length": steps}),
        episodes=1,
        seed=0,
    )
    assert STEPS_SEEN <= len(judged.observations) < 2 * STEPS_SEEN
    seen = judged.observations.ravel()
    assert set(np.diff(seen)) == {8}
    assert seen[-1] > 0.99 * steps


def test_the_seed_decides_the_episodes() -> None:
    one, two, three = (evaluate(right, CARTPOLE, 20, seed).returns for seed in (1, 1, 2))
    assert one.tolist() == two.tolist()
    assert one.tolist() != three.tolist()


def test_a_disturbance_makes_a_good_policy_worse() -> None:
    calm = evaluate(balance, CARTPOLE, 10, seed=0).summary.mean_return
    assert evaluate(balance, CARTPOLE, 10, seed=0, disturbance=0.9).summary.mean_return < calm


@pytest.mark.parametrize("preset", preset_names())
def test_each_presets_environment_is_there_and_its_actions_have_names(preset: str) -> None:
    environment = load_preset(preset).environment
    space = environments.action_space_of(environment)
    assert not isinstance(space, Discrete) or len(space.names) == space.n


def test_what_a_policy_needs_to_know_of_an_environment() -> None:
    spec = environments.spec_of(CARTPOLE, Distribution.LOGITS)
    assert (spec.environment, spec.actions, spec.action.names) == (
        "CartPole-v1",
        2,
        ("left", "right"),
    )
    assert (spec.observation.dtype, spec.observation.shape) == ("float32", (4,))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("Ghost-v0", "environment.id: .*Ghost"),
        ("Pendulum-v1", "environment.id: Pendulum-v1 acts in Box"),
        ("ProbeSmall-v0", "environment.id: ProbeSmall-v0 observes .*int8"),
    ],
)
def test_environments_that_cannot_be_learnt_are_refused(environment: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        environments.spec_of(EnvironmentConfig(id=environment), Distribution.Q_VALUES)


def test_keywords_that_an_environment_does_not_take_are_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"environment\.kwargs"):
        environments.make(EnvironmentConfig(id="ProbeCorridor-v0", kwargs={"colour": "red"}))


MASKED = EnvironmentConfig(id="ProbeMask-v0")


def tempted(observations: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Action 1 wherever it is allowed."""
    return masks[:, 1].astype(np.int64)


@pytest.mark.parametrize("disturbance", [0.0, 0.5])
def test_masks_are_given_to_who_takes_them(disturbance: float) -> None:
    # The environment does not take what it forbids; half the episodes are paid for action 1.
    judged = evaluate(tempted, MASKED, 40, 0, disturbance=disturbance, masked=True)
    assert set(judged.returns.tolist()) == {0, 1}
    with pytest.raises(ValueError, match="action 1 is forbidden"):
        evaluate(right, MASKED, 40, 0)


def test_who_gives_masks_is_found_out_unless_they_are_not_wanted() -> None:
    assert environments.gives_masks(MASKED)
    assert environments.gives_masks(EnvironmentConfig(id="ProbeMaskDict-v0"))
    assert environments.gives_masks(EnvironmentConfig(id="Taxi-v4"))
    assert not environments.gives_masks(EnvironmentConfig(id="Taxi-v4", action_masks=False))
    assert not environments.gives_masks(CARTPOLE)
