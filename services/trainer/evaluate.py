"""How well a policy does when it stops exploring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv

from services.common.registry import Evaluation
from services.trainer import environments
from services.trainer.action_masks import Masks, masks_of
from services.trainer.config import EnvironmentConfig

Array = npt.NDArray[Any]
Greedy = Callable[..., Array]
"""(B, *shape), and masks (B, actions) if they are given → (B, *action)"""
STEPS_SEEN = 256
StepReward = Callable[[Array, npt.NDArray[np.int64]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Judged:
    """Episodes played by a greedy policy.

    returns: (episodes,) undiscounted.
    steps: taken in all.
    mean_step_reward: mean over all steps of the extra reward asked for; NaN when none was.
    observations: (n, *shape) some of what was seen, for parity checks.
    """

    returns: npt.NDArray[np.float64]
    steps: int
    mean_step_reward: float
    observations: Array

    @property
    def summary(self) -> Evaluation:
        """Mean, lowest and highest return."""
        return Evaluation(
            episodes=len(self.returns),
            mean_return=float(self.returns.mean()),
            min_return=float(self.returns.min()),
            max_return=float(self.returns.max()),
        )


def evaluate(
    act: Greedy,
    environment: EnvironmentConfig,
    episodes: int,
    seed: int,
    step_reward: StepReward | None = None,
    disturbance: float = 0.0,
    masked: bool = False,
) -> Judged:
    """Play `episodes` episodes, one in each of as many environments.

    One episode an environment, rather than the first so many to end, so that short episodes
    are not favoured.

    Args:
        act: (episodes, *shape) → (episodes, *action), as the environment takes them.
        seed: of the environments.
        step_reward: an extra reward of observations and actions to average, such as a
            learned one.
        disturbance: share of actions replaced by random ones.
        masked: `act` takes the masks (episodes, actions) too; what they forbid is not done.
    """
    envs = environments.make(environment, num_envs=episodes)
    envs.action_space.seed(seed)
    generator = np.random.default_rng(seed)
    try:
        observations, infos = envs.reset(seed=seed)
        returns = np.zeros(episodes)
        live = np.ones(episodes, dtype=bool)
        extra, steps, seen = 0.0, 0, _Seen()
        while live.any():
            masks = _masks(envs, infos) if masked else None
            actions = act(observations) if masks is None else act(observations, masks)
            if disturbance:
                disturbed = generator.random(episodes) < disturbance
                disturbed = disturbed.reshape(-1, *(1,) * (actions.ndim - 1))
                actions = np.where(disturbed, _anything(envs, masks, generator), actions)
            if step_reward is not None:
                extra += float(step_reward(observations[live], actions[live]).sum())
            steps += int(live.sum())
            seen.add(observations[live][:4])
            observations, rewards, terminated, truncated, infos = envs.step(actions)
            returns += np.where(live, rewards, 0)
            live &= ~(terminated | truncated)
    finally:
        envs.close()
    mean = extra / steps if step_reward is not None else float("nan")
    return Judged(returns, steps, mean, seen.observations)


class _Seen:
    """Some observations from all over the episodes: of one step in `every`, which doubles as
    episodes go on, for those of an hour of pictures fill no memory."""

    def __init__(self) -> None:
        self._kept: list[Array] = []
        self._every, self._step = 1, 0

    def add(self, observations: Array) -> None:
        """Of the next step."""
        if self._step % self._every == 0:
            self._kept.append(observations.copy())
        self._step += 1
        if len(self._kept) == 2 * STEPS_SEEN:
            self._kept = self._kept[::2]
            self._every *= 2

    @property
    def observations(self) -> Array:
        """(n, *shape)"""
        return np.concatenate(self._kept)


def _masks(envs: VectorEnv[Any, Any, Any], infos: dict[str, Any]) -> Masks:
    space = envs.single_action_space
    assert isinstance(space, Discrete)
    return masks_of(infos, envs.num_envs, int(space.n))


def _anything(
    envs: VectorEnv[Any, Any, Any], masks: Masks | None, generator: np.random.Generator
) -> Array:
    """Random actions, of those that are allowed."""
    if masks is None:
        return np.asarray(envs.action_space.sample())
    drawn: Array = np.where(masks, generator.random(masks.shape), -1).argmax(axis=1)
    return drawn
