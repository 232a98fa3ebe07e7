"""Environments that can be brought back to where they were, by going the same way again.

What goes on inside an environment cannot be read out of it in general. But by Gymnasium's
contract an episode follows from the seed of its reset and from the actions taken since. So each
episode is given a seed of its own, its actions are kept until it ends, and the way is gone again
when a run is resumed. That works with whatever keeps to the contract, leaves no trace in the
run, wherever its checkpoints lie, and costs as many steps as the episodes under way had. (To
begin new episodes at each checkpoint would be the other way: it cuts episodes short, and lets
what is learnt depend on when it was saved.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate

from services.common.errors import PreconditionFailed
from services.trainer.arrays import Array, Arrays, joined, part


class Retraced(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that knows how it came to where it is.

    Every reset without a seed gets one that follows from the last that was given and from the
    number of resets since.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._given = self._resets = 0
        self._actions: list[Array] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """See gymnasium.Env."""
        if seed is not None:
            self._given, self._resets = seed, 0
        self._resets += 1
        self._actions = []
        return self.env.reset(seed=_seed(self._given, self._resets), options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See gymnasium.Env."""
        self._actions.append(np.array(action))
        return self.env.step(action)

    def arrays(self) -> dict[str, Array]:
        """The way here."""
        return {
            "seed": np.array([self._given, self._resets]),
            "actions": np.stack(self._actions) if self._actions else np.zeros(0),
        }

    def go(self, way: Arrays) -> Any:
        """Go it again; returns the observation at its end."""
        self._given, self._resets = way["seed"].tolist()
        self._resets -= 1
        observation, _ = self.reset()
        for action in way["actions"]:
            observation, *_ = self.step(action)
        return observation


class RetracedEnvs(SyncVectorEnv):
    """Such environments stepped together, in NEXT_STEP autoreset mode."""

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], count: int) -> None:
        self._lanes: Sequence[Retraced] = []
        super().__init__([lambda: Retraced(make())] * count)
        self._lanes = [env for env in self.envs if isinstance(env, Retraced)]

    def arrays(self) -> dict[str, Array]:
        """Where every environment is."""
        ways = {str(i): lane.arrays() for i, lane in enumerate(self._lanes)}
        return joined(**ways) | {"ended": self._autoreset_envs.copy()}

    def go_back(self, arrays: Arrays) -> Any:
        """Be where `arrays` said; returns what is seen there, (N, *shape), or that by key."""
        self._env_obs = [lane.go(part(arrays, str(i))) for i, lane in enumerate(self._lanes)]
        self._autoreset_envs = arrays["ended"].copy()
        return concatenate(self.single_observation_space, self._env_obs, self._observations)


def where(envs: VectorEnv[Any, Any, Any]) -> dict[str, Array]:
    """Where such environments are; others have no such way of saying it: TypeError."""
    return _retraced(envs).arrays()


def bring_back(envs: VectorEnv[Any, Any, Any], arrays: Arrays, observations: Array) -> None:
    """Have environments be where `where` said.

    Args:
        observations: (N, *shape) seen there, (N,) structured of a Dict.

    Raises:
        PreconditionFailed: when something else is seen there now.
    """
    seen = _retraced(envs).go_back(arrays)
    parts = {key: (seen[key], observations[key]) for key in seen} if isinstance(seen, dict) else {}
    for now, then in parts.values() or [(seen, observations)]:
        if not np.array_equal(now, then.reshape(now.shape), equal_nan=True):
            raise PreconditionFailed(
                "the environment does not come to the same state by the same seed and actions, so "
                "that this run cannot be resumed exactly; set deterministic to false for it"
            )


def _retraced(envs: VectorEnv[Any, Any, Any]) -> RetracedEnvs:
    inside = envs.unwrapped
    if not isinstance(inside, RetracedEnvs):
        raise TypeError(f"{type(inside).__name__} cannot be brought back to where it was")
    return inside


def _seed(given: int, resets: int) -> int:
    return int(np.random.SeedSequence((given, resets)).generate_state(1)[0])
