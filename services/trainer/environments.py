"""Vectorised gymnasium environments, and what a policy needs to know of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from pydantic import ValidationError

import services.pixels  # noqa: F401 - registers environments
from services.common.action_space import ActionSpace, Box, Discrete, MultiDiscrete
from services.common.errors import InvalidConfig
from services.common.spec import (
    DictSpace,
    Distribution,
    DTypeName,
    ObservationSpace,
    PolicySpec,
)
from services.trainer.action_masks import MASK, unpacked
from services.trainer.config import EnvironmentConfig, TrainingConfig
from services.trainer.observations import packed
from services.trainer.retraced import RetracedEnvs

Array = npt.NDArray[Any]
ACTION_NAMES = {
    "Acrobot-v1": ("clockwise", "nothing", "counterclockwise"),
    "CartPole-v1": ("left", "right"),
    "FrozenLake-v1": ("left", "down", "right", "up"),
    "FrozenLake8x8-v1": ("left", "down", "right", "up"),
    "LunarLander-v3": ("nothing", "left engine", "main engine", "right engine"),
    "MountainCar-v0": ("left", "nothing", "right"),
    "Taxi-v4": ("south", "north", "east", "west", "pick up", "drop off"),
}


def make_training(config: TrainingConfig) -> VectorEnv[Any, Any, Any]:
    """The environments that a run learns in: those of `make`, or, in a deterministic run, such as
    can be brought back to where they were.

    Raises:
        InvalidConfig: as `make`, or when its environments only come as a vectorised
            implementation of their own.
    """
    environment = config.environment
    envs = make(environment)
    if not config.deterministic:
        return envs
    envs.close()
    spec = _spec(environment.id)
    if spec.entry_point is not None:
        retraced = RetracedEnvs(lambda: _one(environment), environment.num_envs)
        spaces = retraced.single_observation_space, retraced.single_action_space
        if spaces == (envs.single_observation_space, envs.single_action_space):
            return _in_rows(retraced)
        retraced.close()
    raise InvalidConfig(
        f"environment.id: {environment.id} is stepped by a vectorised implementation of its own, "
        "which cannot be brought back to where it was; leave deterministic false"
    )


def _one(config: EnvironmentConfig) -> gym.Env[Any, Any]:
    return unpacked(gym.make(config.id, **config.kwargs))


def make(config: EnvironmentConfig, num_envs: int | None = None) -> VectorEnv[Any, Any, Any]:
    """Copies of an environment that are stepped together.

    The step after an episode's end resets (AutoresetMode.NEXT_STEP): it ignores the action,
    its reward is 0, and it must not be recorded. So an end's observation is the last one of
    its own episode. An environment's own vectorised implementation is used where there is one.
    Observations of a Dict are structured arrays; see `observations`.

    Raises:
        InvalidConfig: when there is no such environment, it does not take `kwargs`, or it
            resets in another way.
    """
    spec = _spec(config.id)
    count = num_envs or config.num_envs
    how: dict[str, Any] = {"vectorization_mode": "vector_entry_point"}
    if spec.vector_entry_point is None:
        vector_kwargs = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        how = {"vectorization_mode": "sync", "vector_kwargs": vector_kwargs}
        how["wrappers"] = (unpacked,)
    try:
        envs = gym.make_vec(config.id, count, **how, **config.kwargs)
    except TypeError as error:
        raise InvalidConfig(f"environment.kwargs: {error}") from None
    except ImportError as error:
        raise InvalidConfig(
            f"environment.id: {config.id} needs a package that is not installed, perhaps one of "
            f"the extras 'games' and 'robots': {error}"
        ) from None
    if envs.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
        raise InvalidConfig(f"environment.id: {config.id} does not reset on the next step")
    return _in_rows(envs)


def _in_rows(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    if isinstance(envs.single_observation_space, gym.spaces.Dict):
        return PackedParts(envs)
    return envs


def _spec(name: str) -> EnvSpec:
    """What is registered under a name; "module:Name-v0" imports the module that registers it."""
    module, _, registered = name.rpartition(":")
    try:
        if module:
            import_module(module)
        return gym.spec(registered)
    except (gym.error.Error, ImportError) as error:
        raise InvalidConfig(f"environment.id: {error}") from None


class PackedParts(VectorWrapper[Any, Any, Any]):
    """Environments that observe a Dict, whose observations come as structured arrays (N,)."""

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(envs)
        name = envs.spec.id if envs.spec else "environment"
        space = _observation_space(name, envs.single_observation_space)
        assert isinstance(space, DictSpace)
        self._space = space

    def reset(self, **kwargs: Any) -> tuple[Array, dict[str, Any]]:
        """See gymnasium.vector.VectorEnv."""
        observations, infos = self.env.reset(**kwargs)
        return packed(observations, self._space), infos

    def step(self, actions: Any) -> tuple[Array, Any, Any, Any, dict[str, Any]]:
        """See gymnasium.vector.VectorEnv."""
        observations, *outcome, infos = self.env.step(actions)
        rewards, terminated, truncated = outcome
        return packed(observations, self._space), rewards, terminated, truncated, infos


def spec_of(
    config: EnvironmentConfig, distribution: Distribution, *, masked: bool = False
) -> PolicySpec:
    """The spec of a policy for this environment.

    Args:
        masked: the policy takes masks; see `gives_masks`.

    Raises:
        InvalidConfig: when observations are no Box of a known type, Discrete from 0 or Dict of
            such, or actions are not what policies of this distribution choose.
    """
    envs = make(config, num_envs=1)
    observations, actions = envs.single_observation_space, envs.single_action_space
    envs.close()
    observation = _observation_space(config.id, observations)
    action = _action_space(config.id, actions, envs.metadata)
    try:
        return PolicySpec(
            environment=config.id,
            environment_kwargs=config.kwargs,
            observation=observation,
            action=action,
            distribution=distribution,
            masked=masked,
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InvalidConfig(f"environment.id: {config.id} acts in {actions}: {reason}") from None


def gives_masks(config: EnvironmentConfig) -> bool:
    """Whether the environment says which actions are allowed, and it shall be obeyed."""
    if not config.action_masks:
        return False
    envs = make(config, num_envs=1)
    _, infos = envs.reset(seed=0)
    envs.close()
    return MASK in infos


def action_space_of(config: EnvironmentConfig) -> ActionSpace:
    """Which actions the environment takes.

    Raises:
        InvalidConfig: when they are none that policies choose.
    """
    envs = make(config, num_envs=1)
    envs.close()
    return _action_space(config.id, envs.single_action_space, envs.metadata)


def _action_space(
    environment: str, space: gym.Space[Any], metadata: Mapping[str, Any]
) -> ActionSpace:
    match space:
        case gym.spaces.Discrete() if space.start == 0:
            names = ACTION_NAMES.get(environment) or metadata.get("action_names", ())
            return Discrete(n=int(space.n), names=tuple(names))
        case gym.spaces.MultiDiscrete() if space.nvec.ndim == 1 and not space.start.any():
            return MultiDiscrete(nvec=tuple(space.nvec.tolist()))
        case gym.spaces.Box() if space.dtype.name in ("float32", "float64"):
            return Box(
                dtype=space.dtype.name,
                shape=space.shape,
                low=_bounds(space.low),
                high=_bounds(space.high),
            )
    raise InvalidConfig(
        f"environment.id: {environment} acts in {space}, expected Discrete or MultiDiscrete "
        "from 0, or a Box of float32 or float64"
    )


def _bounds(bounds: Array) -> tuple[float | None, ...]:
    return tuple(float(b) if np.isfinite(b) else None for b in bounds.ravel())


def _observation_space(environment: str, space: gym.Space[Any]) -> ObservationSpace | DictSpace:
    found = _leaf(space)
    if found is not None:
        return found
    if isinstance(space, gym.spaces.Dict):
        parts = {key: _leaf(part) for key, part in space.spaces.items()}
        known = {key: part for key, part in parts.items() if part is not None}
        if len(known) == len(parts):
            try:
                return DictSpace(parts=known)
            except ValidationError as error:
                raise InvalidConfig(
                    f"environment.id: {environment}: {error.errors()[0]['msg']}"
                ) from None
    raise InvalidConfig(
        f"environment.id: {environment} observes {space}, expected Discrete from 0, a Box of "
        f"{', '.join(get_args(DTypeName))}, or a Dict of such"
    )


def _leaf(space: gym.Space[Any]) -> ObservationSpace | None:
    if isinstance(space, gym.spaces.Discrete) and space.start == 0:
        return ObservationSpace(dtype="int64", shape=(), n=int(space.n))
    if isinstance(space, gym.spaces.Box) and space.dtype.name in get_args(DTypeName):
        return ObservationSpace(dtype=space.dtype.name, shape=space.shape)
    return None


def seed_from(generator: np.random.Generator) -> int:
    """A seed for an environment's reset, drawn from a run's own generator."""
    return int(generator.integers(2**31))
