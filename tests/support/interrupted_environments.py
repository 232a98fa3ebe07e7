"""Environments that come to a stop at a moment of a test's choosing, so that it can kill the
process there, and not there again once it is resumed. Importing this registers them."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym

ARMED, REACHED = "armed", "reached"


class Crash(Exception):
    """What a test ends a run with that is in its own process."""


class Interrupted(gym.Wrapper[Any, Any, Any, Any]):
    """Counts its steps, and stops before one of them, once.

    folder: in which a file says "armed" as long as it has not come to that.
    at: which step.
    waits: for a signal, or else raises Crash.
    """

    def __init__(self, env: gym.Env[Any, Any], folder: str, at: int, waits: bool) -> None:
        super().__init__(env)
        self._folder, self._at, self._waits = Path(folder), at, waits
        self._steps = 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See gymnasium.Env."""
        self._steps += 1
        if self._steps >= self._at and (self._folder / ARMED).exists():
            (self._folder / ARMED).rename(self._folder / REACHED)
            if not self._waits:
                raise Crash
            while True:
                signal.pause()
        return self.env.step(action)


def make(of: str, folder: str, at: int, waits: bool = True) -> gym.Env[Any, Any]:
    """An environment that is stopped."""
    return Interrupted(gym.make(of), folder, at, waits)


gym.register("Interrupted-v0", entry_point=make)


class Poisoned(gym.Wrapper[Any, Any, Any, Any]):
    """Pays no number from one of its steps on."""

    def __init__(self, env: gym.Env[Any, Any], after: int) -> None:
        super().__init__(env)
        self._left = after

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See gymnasium.Env."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._left -= 1
        return observation, reward if self._left > 0 else math.nan, terminated, truncated, info


def poisoned(of: str, after: int) -> gym.Env[Any, Any]:
    """An environment that is poisoned."""
    return Poisoned(gym.make(of), after)


gym.register("Poisoned-v0", entry_point=poisoned)
