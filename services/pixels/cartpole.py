"""CartPole as it looks, in place of position, speed, angle and turning rate.

A frame is the part of Gymnasium's screen in which something moves (rows 160 to 320 of 400, over
the whole width, for the cart's position matters), averaged over squares of pixels. It is drawn by
the calls that Gymnasium draws by, on the part about the cart alone: what is left is blank but for
the track. That gives the same pixels at a small share of the cost.

An observation is the newest frames, oldest first, and at an episode's start the first one again,
so that a replay can keep each frame once. A network that wants the difference of two frames
takes it itself: a difference stored as uint8 would lose a bit, and a policy that is given frames
can be asked by whoever has a camera.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pygame
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector.utils import batch_space
from pygame import gfxdraw

Bytes = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]
Point = tuple[int, int]

SCREEN_WIDTH, TOP, BOTTOM = 600, 160, 320
HEIGHT = BOTTOM - TOP
_TRACK_FROM_BELOW = 100
_BELOW = 400 - BOTTOM  # rows of the screen under the part that is drawn
_SCALE = SCREEN_WIDTH / 4.8
_CART = (50.0, 30.0)
_POLE = (10.0, _SCALE)
_REACH = 104  # pixels to either side of the cart's middle, more than the pole has when it falls
_ACTION_NAMES = ("left", "right")
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_COLOURS = {"cart": (0, 0, 0), "pole": (202, 152, 101), "axle": (129, 132, 203)}


class Screen:
    """Draws frames, (3, height, width) or (height, width) of luminance.

    Args:
        block: side of the squares of pixels that become one, a divisor of 40.
        color: red, green and blue instead of luminance.
    """

    def __init__(self, block: int, color: bool) -> None:
        if block < 1 or 40 % block:
            raise TypeError(f"block is {block}, expected a divisor of 40")
        self._block, self._colors = block, dict(_COLOURS)
        if not color:
            for name, parts in _COLOURS.items():
                self._colors[name] = (round(float(_LUMINANCE @ parts)),) * 3
        self._channels = 3 if color else 1
        width = -(-2 * _REACH // block) * block + block
        self._surface = pygame.Surface((width, HEIGHT), depth=32)
        blank = np.full((self._channels, HEIGHT, SCREEN_WIDTH), 255, np.uint8)
        blank[:, HEIGHT - 1 - (_TRACK_FROM_BELOW - _BELOW)] = 0
        self._blank = self._averaged(blank)
        self.shape = self._shaped(self._blank).shape

    def draw(self, position: float, angle: float) -> Bytes:
        """The frame of a state: metres from the middle, radians from upright."""
        block, width = self._block, self._surface.get_width()
        middle = position * _SCALE + SCREEN_WIDTH / 2
        left = int(middle - _REACH) // block * block
        self._draw(left, middle, angle)
        drawn = self._averaged(self._pixels())  # (channels, height, width of the part)
        frame = self._blank.copy()
        start, stop = max(0, left), min(SCREEN_WIDTH, left + width)
        if start < stop:
            part = slice((start - left) // block, (stop - left) // block)
            frame[:, :, start // block : stop // block] = drawn[:, :, part]
        return self._shaped(frame)

    def _draw(self, left: int, middle: float, angle: float) -> None:
        """As CartPoleEnv.render does, upside down."""
        surface, colors, axle = self._surface, self._colors, _TRACK_FROM_BELOW + _CART[1] / 4
        surface.set_clip(None)
        surface.fill((255, 255, 255))
        # Lines that leave the screen are cut off there before they are drawn, and bend by that.
        surface.set_clip((-left, 0, SCREEN_WIDTH, HEIGHT))
        (width, height), (thick, long) = _CART, _POLE
        sides = (-width / 2, width / 2, height / 2, -height / 2)
        cart = [(x + middle, y + _TRACK_FROM_BELOW) for x, y in _corners(*sides)]
        self._polygon([_pixel(x, y, left) for x, y in cart], colors["cart"])
        corners = _corners(-thick / 2, thick / 2, long - thick / 2, -thick / 2)
        turned = [pygame.math.Vector2(corner).rotate_rad(-angle) for corner in corners]
        pole = [(x + middle, y + axle) for x, y in turned]
        self._polygon([_pixel(x, y, left) for x, y in pole], colors["pole"])
        hub = _pixel(middle, axle, left)
        gfxdraw.aacircle(surface, *hub, int(thick / 2), colors["axle"])
        gfxdraw.filled_circle(surface, *hub, int(thick / 2), colors["axle"])
        track = _TRACK_FROM_BELOW - _BELOW
        gfxdraw.hline(surface, 0, surface.get_width(), track, (0, 0, 0))

    def _polygon(self, points: list[Point], color: tuple[int, ...]) -> None:
        gfxdraw.aapolygon(self._surface, points, color)
        gfxdraw.filled_polygon(self._surface, points, color)

    def _pixels(self) -> Bytes:
        """(channels, height, width), the right way up."""
        # Views: they hold the surface, which is drawn on again when they are gone.
        if self._channels == 3:
            pixels = pygame.surfarray.pixels3d(self._surface)
        else:
            pixels = pygame.surfarray.pixels_red(self._surface)[:, :, None]
        upright: Bytes = pixels.transpose(2, 1, 0)[:, ::-1]
        return upright

    def _averaged(self, pixels: Bytes) -> Bytes:
        """(channels, h, w) → (channels, h / block, w / block), rounded.

        Two products of matrices sum the squares, exactly: a tenth of the time of summing axes.
        """
        if self._block == 1:
            return pixels
        rows, columns = (_summing(length, self._block) for length in pixels.shape[1:])
        sums = rows.T @ pixels.astype(np.float32, order="C") @ columns
        means: Bytes = np.floor(sums / self._block**2 + 0.5).astype(np.uint8)
        return means

    def _shaped(self, frame: Bytes) -> Bytes:
        return frame if self._channels == 3 else frame[0]


@cache
def _summing(length: int, block: int) -> npt.NDArray[np.float32]:
    """(length, length / block): 1 where an element belongs to a block"""
    return np.repeat(np.eye(length // block, dtype=np.float32), block, axis=0)


def _corners(left: float, right: float, top: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, bottom), (left, top), (right, top), (right, bottom)]


def _pixel(x: float, y: float, left: int) -> Point:
    # pygame cuts what follows the point off, and so towards 0: it must come before the shift.
    return int(x) - left, int(y) - _BELOW


class CartPolePixels(gym.Wrapper[Any, Any, Any, Any]):
    """One environment. It is rendered as CartPole is.

    Args:
        stack: frames in an observation.
        block, color: see Screen.
    """

    def __init__(
        self,
        stack: int = 2,
        block: int = 4,
        color: bool = False,
        render_mode: str | None = None,
        sutton_barto_reward: bool = False,
    ) -> None:
        super().__init__(CartPoleEnv(sutton_barto_reward, render_mode))
        self.metadata = {**self.metadata, "action_names": _ACTION_NAMES}
        self._screen = Screen(block, color)
        self._frames = np.zeros((1, stack, *self._screen.shape), np.uint8)
        self.observation_space = gym.spaces.Box(0, 255, self._frames.shape[1:], np.uint8)

    def reset(self, **kwargs: Any) -> tuple[Bytes, dict[str, Any]]:
        """See gymnasium.Env."""
        _, info = self.env.reset(**kwargs)
        return self._observe(begins=True), info

    def step(self, action: Any) -> tuple[Bytes, Any, bool, bool, dict[str, Any]]:
        """See gymnasium.Env."""
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(begins=False), reward, terminated, truncated, info

    def _observe(self, begins: bool) -> Bytes:
        state: Array = np.asarray(self.env.unwrapped.state)  # type: ignore[attr-defined]
        frame = self._screen.draw(state[0], state[2])
        self._frames = pushed(self._frames, frame[None], np.array([begins]))
        observation: Bytes = self._frames[0]
        return observation


class VectorCartPolePixels(CartPoleVectorEnv):
    """Several of them stepped together; arguments as in CartPolePixels."""

    def __init__(
        self,
        num_envs: int = 1,
        stack: int = 2,
        block: int = 4,
        color: bool = False,
        max_episode_steps: int = 500,
        render_mode: str | None = None,
        sutton_barto_reward: bool = False,
    ) -> None:
        super().__init__(num_envs, max_episode_steps, render_mode, sutton_barto_reward)
        self.metadata = {**self.metadata, "action_names": _ACTION_NAMES}
        self._screen = Screen(block, color)
        self._frames = np.zeros((num_envs, stack, *self._screen.shape), np.uint8)
        shape = self._frames.shape[1:]
        self.single_observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See gymnasium.vector.VectorEnv."""
        _, info = super().reset(seed=seed, options=options)
        return self._observe(np.ones(self.num_envs, dtype=bool)), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """See gymnasium.vector.VectorEnv; the step after an end resets."""
        begins = self.prev_done.copy()
        _, reward, terminated, truncated, info = super().step(action)
        return self._observe(begins), reward, terminated, truncated, info

    def _observe(self, begins: npt.NDArray[np.bool_]) -> Bytes:
        positions, _, angles, _ = np.asarray(self.state)
        frames = [self._screen.draw(*state) for state in zip(positions, angles, strict=True)]
        self._frames = pushed(self._frames, np.stack(frames), begins)
        return self._frames


def pushed(frames: Bytes, newest: Bytes, begins: npt.NDArray[np.bool_]) -> Bytes:
    """Stacks (N, stack, *shape) with the newest frames (N, *shape) at their ends; where an
    episode begins, of that frame alone."""
    moved = np.concatenate([frames[:, 1:], newest[:, None]], axis=1)
    moved[begins] = newest[begins][:, None]
    return moved
