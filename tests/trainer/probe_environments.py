"""Tiny environments, each of which fails to be learnt when one thing is wrong.

Observations are one number, actions 0 and 1. Importing this registers, with the values that any
learner has to find whatever it does meanwhile:

    ProbeReward-v0       one step, reward 1                          V = 1
    ProbeDiscount-v0     two steps, reward 1 at the second           V = γ, then 1
    ProbeAction-v0       one step, reward 1 for the action observed  Q = 1 or 0
    ProbeCredit-v0       two steps; observes 0, then 2 after action  Q = (0, γ), then 0 at 1
                         1 and 1 after 0; reward 1 at 2              and 1 at 2
    ProbeTruncation-v0   one step, reward 1, then cut short          V = 1 / (1 - γ)
    ProbeEnds-v0         the same where it observes 1; where it      V = 1 at 0,
                         observes 0 the step terminates              1 / (1 - γ) at 1

those whose values follow from the policy that acts

    ProbeChoice-v0       two steps; reward 1 for action 1 at the     V(0) = γ·π(1|1), best γ
                         second

where some actions are forbidden, and taking one is an error

    ProbeMask-v0         observes 1, reward 1 for action 1; half the    Q = 0 at 0, and (0, 1)
                         episodes come there from 0, and may not        at 1
                         take it then
    ProbeMaskDict-v0     the same with the mask in the observation

and, for what surrounds learners,

    ProbeCorridor-v0     `length` steps, then terminated; observes the step
    ProbeSmall-v0        observes int8, which policies do not take

    ProbePair-v0         one step; two components, half the reward for each that is observed

`ProbeNameContinuous-v0` is the same with one number in [-1, 1] as its action. Where the discrete
one asks for action 0 or 1, it asks for -0.5 or 0.5, and pays 1 less the squared distance.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

Observation = np.ndarray[Any, np.dtype[np.float32]]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


class Probe(gym.Env[Observation, Any]):
    """An episode that goes from one observation to the next."""

    observation_space = gym.spaces.Box(-100, 100, (1,), np.float32)

    def __init__(self, continuous: bool = False) -> None:
        self.continuous = continuous
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(2)
        if continuous:
            self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

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

    def merit(self, action: Any, wanted: float) -> float:
        """1 for the action that is wanted, 0 or 1."""
        if not self.continuous:
            return float(action == wanted)
        return 1.0 - float(action[0] - (wanted - 0.5)) ** 2


class Reward(Probe):
    def step(self, action: Any) -> Step:
        return self.seen(), 1.0, True, False, {}


class Discount(Probe):
    def step(self, action: Any) -> Step:
        self.state += 1
        over = self.state == 2
        return self.seen(), float(over), over, False, {}


class Action(Probe):
    def first(self) -> float:
        return float(self.np_random.integers(2))

    def step(self, action: Any) -> Step:
        return self.seen(), self.merit(action, self.state), True, False, {}


class Credit(Probe):
    def step(self, action: Any) -> Step:
        if self.state:
            return self.seen(), self.state - 1, True, False, {}
        self.state = 1 + self.merit(action, 1)
        return self.seen(), 0.0, False, False, {}


class Choice(Probe):
    def step(self, action: Any) -> Step:
        if self.state:
            return self.seen(), self.merit(action, 1), True, False, {}
        self.state = 1.0
        return self.seen(), 0.0, False, False, {}


class Mask(Probe):
    """Whether action 1 is forbidden cannot be seen: what it is worth is, by those who may."""

    def first(self) -> float:
        self.restricted = bool(self.np_random.integers(2))
        return 0.0 if self.restricted else 1.0

    def mask(self) -> np.ndarray[Any, np.dtype[np.int8]]:
        return np.array([1, not (self.restricted and self.state)], np.int8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        return super().reset(seed=seed)[0], {"action_mask": self.mask()}

    def step(self, action: Any) -> Step:
        if not self.mask()[action]:
            raise ValueError(f"action {action} is forbidden")
        over, self.state = self.state == 1, 1.0
        return self.seen(), float(over and action == 1), over, False, {"action_mask": self.mask()}


class MaskDict(gym.ObservationWrapper[Any, Any, Any]):
    def __init__(self) -> None:
        env = Mask()
        super().__init__(env)
        flags = gym.spaces.Box(0, 1, (2,), np.int8)
        spaces = {"observation": env.observation_space, "action_mask": flags}
        self.observation_space = gym.spaces.Dict(spaces)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return super().reset(**kwargs)[0], {}

    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {}

    def observation(self, observation: Observation) -> dict[str, Any]:
        return {"observation": observation, "action_mask": self.env.unwrapped.mask()}


class Truncation(Probe):
    def step(self, action: Any) -> Step:
        return self.seen(), 1.0, False, True, {}


class Ends(Action):
    def step(self, action: Any) -> Step:
        return self.seen(), 1.0, self.state == 0, self.state == 1, {}


class Corridor(Probe):
    """Rewards are the step's number plus one; `cut` ends it by truncation instead."""

    def __init__(self, length: int = 3, cut: bool = False, continuous: bool = False) -> None:
        super().__init__(continuous)
        self.length, self.cut = length, cut

    def step(self, action: Any) -> Step:
        self.state += 1
        over = self.state == self.length
        return self.seen(), self.state, over and not self.cut, over and self.cut, {}


class Small(Reward):
    observation_space = gym.spaces.Box(0, 1, (1,), np.int8)


PROBES = (Reward, Discount, Action, Credit, Choice, Truncation, Ends, Corridor, Small)
for probe in PROBES:
    gym.register(f"Probe{probe.__name__}-v0", probe)
    gym.register(f"Probe{probe.__name__}Continuous-v0", probe, kwargs={"continuous": True})
gym.register("ProbeMask-v0", Mask)
gym.register("ProbeMaskDict-v0", MaskDict)


class Pair(gym.Env[Observation, Any]):
    """One step; half the reward for each of two components that is what was observed."""

    observation_space = gym.spaces.Box(0, 2, (2,), np.float32)
    action_space = gym.spaces.MultiDiscrete([2, 3])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.wanted = self.np_random.integers([2, 3]).astype(np.float32)
        return self.wanted.copy(), {}

    def step(self, action: Any) -> Step:
        return self.wanted.copy(), float((action == self.wanted).mean()), True, False, {}


gym.register("ProbePair-v0", Pair)
