"""Vectorised gymnasium environments, and what a policy needs to know of them."""

from __future__ import annotations

from typing import Any, get_args

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from services.common.errors import InvalidConfig
from services.common.spec import Distribution, DTypeName, ObservationSpace, PolicySpec
from services.trainer.config import EnvironmentConfig

Array = npt.NDArray[Any]
ACTION_NAMES = {"CartPole-v1": ("left", "right")}


def make(config: EnvironmentConfig, num_envs: int | None = None) -> VectorEnv[Any, Any, Any]:
    """Copies of an environment that are stepped together.

    The step after an episode's end resets (AutoresetMode.NEXT_STEP): it ignores the action,
    its reward is 0, and it must not be recorded. So an end's observation is the last one of
    its own episode. An environment's own vectorised implementation is used where there is one.

    Raises:
        InvalidConfig: when there is no such environment, it does not take `kwargs`, or it
            resets in another way.
    """
    try:
        spec = gym.spec(config.id)
    except gym.error.Error as error:
        raise InvalidConfig(f"environment.id: {error}") from None
    count = num_envs or config.num_envs
    how: dict[str, Any] = {"vectorization_mode": "vector_entry_point"}
    if spec.vector_entry_point is None:
        vector_kwargs = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        how = {"vectorization_mode": "sync", "vector_kwargs": vector_kwargs}
    try:
        envs = gym.make_vec(config.id, count, **how, **config.kwargs)
    except TypeError as error:
        raise InvalidConfig(f"environment.kwargs: {error}") from None
    if envs.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
        raise InvalidConfig(f"environment.id: {config.id} does not reset on the next step")
    return envs


def spec_of(config: EnvironmentConfig, distribution: Distribution) -> PolicySpec:
    """The spec of a policy for this environment.

    Raises:
        InvalidConfig: when observations are not a Box of a known type, or actions not Discrete
            from 0.
    """
    envs = make(config, num_envs=1)
    observations, actions = envs.single_observation_space, envs.single_action_space
    envs.close()
    known = get_args(DTypeName)
    if not isinstance(observations, gym.spaces.Box) or observations.dtype.name not in known:
        raise InvalidConfig(
            f"environment.id: {config.id} observes {observations}, expected a Box of "
            f"{', '.join(known)}"
        )
    if not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
        raise InvalidConfig(
            f"environment.id: {config.id} acts in {actions}, expected Discrete from 0"
        )
    return PolicySpec(
        environment=config.id,
        observation=ObservationSpace(
            dtype=observations.dtype.name,
            shape=observations.shape,
        ),
        actions=int(actions.n),
        action_names=ACTION_NAMES.get(config.id, ()),
        distribution=distribution,
    )


def seed_from(generator: np.random.Generator) -> int:
    """A seed for an environment's reset, drawn from a run's own generator."""
    return int(generator.integers(2**31))
