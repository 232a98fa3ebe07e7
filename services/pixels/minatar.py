"""MinAtar's games: a picture of 10 × 10 with a channel for each kind of thing.

As published: actions stick with a chance of 0.1 and the games grow harder. Actions that do nothing
in a game are left out. What is there is 255 and what is not is 0, as of any picture. The package's
own Gymnasium class is not used: an episode played again from its seed is another one there, for
the action that sticks is left over from the episode before.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
SQUARE_PX = 40
METADATA = {"render_modes": ["rgb_array"], "render_fps": 15}
ACTION_NAMES = {"n": "nothing", "l": "left", "u": "up", "r": "right", "d": "down", "f": "fire"}
# Of nothing, then of one channel after another; a later one lies over an earlier one.
PALETTE = np.array(
    [
        (24, 24, 27),
        (96, 165, 250),
        (251, 191, 36),
        (113, 113, 122),
        (248, 113, 113),
        (52, 211, 153),
        (192, 132, 252),
        (244, 244, 245),
        (251, 146, 60),
        (45, 212, 191),
        (163, 230, 53),
    ],
    np.uint8,
)


class MinAtar(gym.Env[Bytes, Any]):
    """One game; observes (channels, 10, 10).

    Args:
        game: such as "breakout".
        sticky_action_prob: that the action before is repeated.
    """

    metadata = METADATA

    def __init__(
        self,
        game: str,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        render_mode: str | None = None,
    ) -> None:
        from minatar import Environment  # slow: it imports a library of plots

        self._game = Environment(game, sticky_action_prob, difficulty_ramping)
        self._actions = self._game.minimal_action_set()
        names = [ACTION_NAMES[self._game.env.action_map[action]] for action in self._actions]
        self.metadata = {**METADATA, "action_names": names}
        self.render_mode = render_mode
        height, width, channels = self._game.state_shape()
        self.action_space = gym.spaces.Discrete(len(self._actions))
        self.observation_space = gym.spaces.Box(0, 255, (channels, height, width), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Bytes, dict[str, Any]]:
        """See gymnasium.Env."""
        first = not self.has_reset
        super().reset(seed=seed)
        if seed is not None or first:
            self._game.seed(int(self.np_random.integers(2**31)))
        self._game.last_action = 0
        self._game.reset()
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Bytes, float, bool, bool, dict[str, Any]]:
        """See gymnasium.Env."""
        reward, over = self._game.act(self._actions[action])
        return self._observe(), float(reward), bool(over), False, {}

    def render(self) -> Any:
        """(height, width, 3)"""
        state = self._game.state()  # (10, 10, channels)
        kind = (state * np.arange(1, state.shape[2] + 1)).max(axis=2)
        return PALETTE[kind].repeat(SQUARE_PX, axis=0).repeat(SQUARE_PX, axis=1)

    @property
    def has_reset(self) -> bool:
        """Whether an episode has begun before."""
        return self._np_random is not None

    def _observe(self) -> Bytes:
        channels: Bytes = self._game.state().transpose(2, 0, 1).astype(np.uint8)
        return channels * np.uint8(255)
