"""Tiny environments that are seen, each of which fails to be learnt when one thing is wrong.

Importing this registers

    ProbeSide-v0      a bright square to the left or to the right; reward 1 for that action
    ProbeMotion-v0    two frames with the square in the middle of the newest; reward 1 for the
                      action that it moves to, which no single frame tells
    ProbeParts-v0     a Dict of a picture with a square to one side, a vector and a number; reward
                      1 for the square's side if the vector's number says so, for the other if not,
                      and nothing where the number of the state is 2

all of one step.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

SIDE, HEIGHT, WIDTH = 3, 8, 12
Step = tuple[Any, float, bool, bool, dict[str, Any]]


def picture(left: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A dark picture with a bright square that begins at a column."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[2 : 2 + SIDE, left : left + SIDE] = 255
    return pixels


class Seen(gym.Env[Any, Any]):
    """One step; the square is to one side."""

    observation_space: gym.Space[Any] = gym.spaces.Box(0, 255, (1, HEIGHT, WIDTH), np.uint8)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.wanted = int(self.np_random.integers(2))
        return self.seen(), {}

    def seen(self) -> Any:
        return picture(1 if self.wanted == 0 else 8)[None]

    def step(self, action: Any) -> Step:
        return self.seen(), float(action == self.wanted), True, False, {}


class Motion(Seen):
    """The episode's first observation is its first frame twice, as frame stacks have it; what
    moves comes after a first step that pays nothing."""

    observation_space = gym.spaces.Box(0, 255, (2, HEIGHT, WIDTH), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        _, info = super().reset(seed=seed)
        start = 8 if self.wanted == 0 else 1
        self.frames = np.stack([picture(start)] * 2)
        self.began = False
        return self.frames, info

    def step(self, action: Any) -> Step:
        over = self.began
        reward = float(over and action == self.wanted)
        self.began = True
        self.frames = np.stack([self.frames[1], picture(5)])
        return self.frames, reward, over, False, {}


class Parts(Seen):
    observation_space = gym.spaces.Dict(
        {
            "picture": gym.spaces.Box(0, 255, (HEIGHT, WIDTH, 1), np.uint8),
            "vector": gym.spaces.Box(-1, 1, (2,), np.float32),
            "state": gym.spaces.Discrete(3),
        }
    )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        self.side, self.turned = (int(n) for n in self.np_random.integers(2, size=2))
        self.state = int(self.np_random.integers(3))
        return self.seen(), {}

    def seen(self) -> Any:
        return {
            "picture": picture(1 if self.side == 0 else 8)[:, :, None],
            "vector": np.array([0.5, 1 - 2 * self.turned], np.float32),
            "state": self.state,
        }

    def step(self, action: Any) -> Step:
        wanted = self.side ^ self.turned
        return self.seen(), float(action == wanted and self.state < 2), True, False, {}


gym.register("ProbeSide-v0", Seen)
gym.register("ProbeMotion-v0", Motion)
gym.register("ProbeParts-v0", Parts)
