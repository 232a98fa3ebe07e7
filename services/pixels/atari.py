"""Atari's games by ale-py's vector environment, which steps and draws them in C++.

Preprocessing is the usual one (Mnih et al. 2015): 4 frames an action, the last two of them
maximised, grey, 84 × 84, the newest 4 such frames stacked. Of what makes games random and what
ends an episode Machado et al. 2018 are followed: an action sticks with a chance of 0.25 and there
are no idle steps at the start; an episode ends with the game, with a life only where
`episodic_life` is set. Actions are those that do something in the game, and FIRE is pressed where
a game waits for it. Rewards are the game's own: what is learnt from can be clipped, see
`replay.reward_limit`.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

Bytes = npt.NDArray[np.uint8]
FRAMES_PER_S = 15  # of 60, 4 an action
ENLARGED = 5


def vector_atari(
    num_envs: int = 1,
    game: str = "pong",
    repeat_action_probability: float = 0.25,
    noop_max: int = 0,
    reward_clipping: bool = False,
    render_mode: str | None = None,
    **kwargs: Any,
) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Copies of a game, (N, 4, 84, 84); the step after an end resets.

    Args:
        game: in snake case, such as "space_invaders".
        kwargs: more of AtariVectorEnv.
    """
    from ale_py.vector_env import AtariVectorEnv

    envs = AtariVectorEnv(
        game,
        num_envs,
        repeat_action_probability=repeat_action_probability,
        noop_max=noop_max,
        reward_clipping=reward_clipping,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        **kwargs,
    )
    names = [action.name.lower() for action in envs.ale.get_action_set()]
    envs.metadata = {**envs.metadata, "action_names": names}
    return envs


class Atari(gym.Env[Bytes, np.int64]):
    """One game, the same as in `vector_atari`; drawn as the policy sees it.

    Args:
        kwargs: see `vector_atari`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_S}  # noqa: RUF012

    def __init__(self, game: str = "pong", render_mode: str | None = None, **kwargs: Any) -> None:
        self._games = vector_atari(1, game, **kwargs)
        self.render_mode = render_mode
        self.observation_space = self._games.single_observation_space
        self.action_space = self._games.single_action_space
        self._observation: Bytes = np.zeros(self.observation_space.shape or (), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Bytes, dict[str, Any]]:
        """See gymnasium.Env."""
        super().reset(seed=seed)
        observations, _ = self._games.reset(seed=seed)
        self._observation = observations[0]
        return self._observation, {}

    def step(self, action: np.int64) -> tuple[Bytes, float, bool, bool, dict[str, Any]]:
        """See gymnasium.Env."""
        outcome = self._games.step(np.array([action], np.int64))
        observations, rewards, terminated, truncated, _ = outcome
        self._observation = observations[0]
        return self._observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        """(height, width, 3): the newest frame, enlarged."""
        newest = self._observation[-1]
        picture = newest if newest.ndim == 3 else np.stack([newest] * 3, axis=2)
        return picture.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)

    def close(self) -> None:
        """See gymnasium.Env."""
        self._games.close()
