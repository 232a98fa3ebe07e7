"""The probe environments pay what they say, in discrete and in continuous actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from probe_environments import PROBES

WANTED = {0: np.array([-0.5], np.float32), 1: np.array([0.5], np.float32)}


def play(name: str, actions: list[Any], seed: int = 0) -> list[tuple[float, float, bool, bool]]:
    """(observed before, reward, terminated, truncated) of each step."""
    env = gym.make(name)
    observation, _ = env.reset(seed=seed)
    steps = []
    for action in actions:
        following, reward, terminated, truncated, _ = env.step(action)
        steps.append((float(observation[0]), float(reward), terminated, truncated))
        observation = following
    env.close()
    return steps


@pytest.mark.parametrize("probe", [p.__name__ for p in PROBES if p.__name__ != "Small"])
@pytest.mark.parametrize("twin", ["", "Continuous"])
def test_spaces_hold_what_is_seen(probe: str, twin: str) -> None:
    env = gym.make(f"Probe{probe}{twin}-v0")
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        assert env.observation_space.contains(observation)
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        over = terminated or truncated
    env.close()


@pytest.mark.parametrize("action", [0, 1])
def test_credit_is_due_to_the_first_action(action: int) -> None:
    expected = [(0, 0, False, False), (1 + action, action, True, False)]
    assert play("ProbeCredit-v0", [action, 0]) == expected
    second = play("ProbeCreditContinuous-v0", [WANTED[action], WANTED[0]])[1]
    # The distance from what is wanted is 0 or 1.
    assert second == (1 + action, action, True, False)


def test_the_same_step_ends_in_two_ways() -> None:
    found = {play("ProbeEnds-v0", [0], seed)[0] for seed in range(8)}
    assert found == {(0, 1, True, False), (1, 1, False, True)}


@pytest.mark.parametrize("seed", range(4))
def test_the_action_observed_pays_in_either_kind(seed: int) -> None:
    for action in (0, 1):
        observed, reward, *_ = play("ProbeAction-v0", [action], seed)[0]
        assert reward == float(observed == action)
        assert play("ProbeActionContinuous-v0", [WANTED[action]], seed)[0][1] == reward
