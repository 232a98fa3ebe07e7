"""Which actions an environment allows in a state.

An environment says so in `info["action_mask"]`, (actions,) with 1 where allowed, of every reset
and step: that is Gymnasium's own way (Taxi), leaves observations to be what a network sees, and
vectorised environments pass it on as one array. Environments that put it into the observation,
a Dict of "observation" and "action_mask" (as PettingZoo and OpenSpiel have it), are unpacked into
that form when they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

MASK = "action_mask"
OBSERVATION = "observation"
Masks = npt.NDArray[np.bool_]


class UnpackedMask(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose mask comes with the observation, as one whose mask comes in `info`."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Dict)
        self.observation_space = space[OBSERVATION]

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """See gymnasium.Env."""
        observed, info = self.env.reset(**kwargs)
        return observed[OBSERVATION], {**info, MASK: observed[MASK]}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See gymnasium.Env."""
        observed, reward, terminated, truncated, info = self.env.step(action)
        following = {**info, MASK: observed[MASK]}
        return observed[OBSERVATION], reward, terminated, truncated, following


def unpacked(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment with its mask in `info`, if it has one in its observation."""
    space = env.observation_space
    if isinstance(space, gym.spaces.Dict) and space.spaces.keys() == {OBSERVATION, MASK}:
        return UnpackedMask(env)
    return env


def mask_of(info: Mapping[str, Any], actions: int) -> Masks:
    """The mask in one environment's info, (actions,); see `masks_of`."""
    given = {MASK: info[MASK][None]} if MASK in info else {}
    mask: Masks = masks_of(given, 1, actions)[0]
    return mask


def masks_of(infos: Mapping[str, Any], count: int, actions: int) -> Masks:
    """The masks in a vectorised environment's infos, (count, actions).

    All is allowed where the environment says nothing, or that nothing is: as some do of
    terminal states, in which it does not matter.
    """
    given = infos.get(MASK)
    if given is None:
        return np.ones((count, actions), dtype=bool)
    masks: Masks = np.asarray(given).astype(bool)
    masks[~infos.get(f"_{MASK}", np.ones(count, dtype=bool))] = True
    masks[~masks.any(axis=1)] = True
    return masks
