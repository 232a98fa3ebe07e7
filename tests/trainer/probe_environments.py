"""Tiny environments, each of which fails to be learnt when one thing is wrong.

Observations are one number, actions 0 and 1. Importing this registers:

    ProbeReward-v0       one step, reward 1                          V = 1
    ProbeDiscount-v0     two steps, reward 1 at the second           V = γ, then 1
    ProbeAction-v0       one step, reward 1 for the action observed  Q = 1 or 0
    ProbeTruncation-v0   one step, reward 1, then cut short          V = 1 / (1 - γ)
    ProbeCorridor-v0     `length` steps, then terminated; observes the step
    ProbeSmall-v0        observes int8, which policies do not take
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

Observation = np.ndarray[Any, np.dtype[np.float32]]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


class Probe(gym.Env[Observation, np.int64]):
    """An episode that goes from one observation to the next."""

    observation_space = gym.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.first()
        return self.seen(), {}

    def first(self) -> float:
        return 0.0

    def seen(self) -> Observation:
        return np.array([self.state], np.float32)


class Reward(Probe):
    def step(self, action: np.int64) -> Step:
        return self.seen(), 1.0, True, False, {}


class Discount(Probe):
    def step(self, action: np.int64) -> Step:
        self.state += 1
        over = self.state == 2
        return self.seen(), float(over), over, False, {}


class Action(Probe):
    def first(self) -> float:
        return float(self.np_random.integers(2))

    def step(self, action: np.int64) -> Step:
        return self.seen(), float(action == self.state), True, False, {}


class Truncation(Probe):
    def step(self, action: np.int64) -> Step:
        return self.seen(), 1.0, False, True, {}


class Corridor(Probe):
    """Rewards are the step's number plus one; `cut` ends it by truncation instead."""

    def __init__(self, length: int = 3, cut: bool = False) -> None:
        self.length, self.cut = length, cut

    def step(self, action: np.int64) -> Step:
        self.state += 1
        over = self.state == self.length
        return self.seen(), self.state, over and not self.cut, over and self.cut, {}


class Small(Reward):
    observation_space = gym.spaces.Box(0, 1, (1,), np.int8)


for probe in (Reward, Discount, Action, Truncation, Corridor, Small):
    gym.register(f"Probe{probe.__name__}-v0", probe)
