"""Lets a served policy act in its environment, one real Act call a step, and keeps pictures."""

from __future__ import annotations

import base64
import io
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
from PIL import Image

import services.pixels  # noqa: F401 - registers environments
from services.feedback.app.action_bars import Bar, bars
from tutelage import Client
from tutelage.v1.policy_pb2 import ActionSpace

JPEG_QUALITY = 80
MOST_PIXELS_WIDE = 600
DEFAULT_FRAMES_PER_S = 30.0
LATENCIES_KEPT = 200


@dataclass(frozen=True)
class Choice:
    """Which policy acts and how; version 0 follows the alias. `space`: its actions; `masked`:
    it is told which of them the environment allows."""

    policy: str
    space: ActionSpace
    version: int
    alias: str
    sample: bool
    temperature: float
    masked: bool = False


@dataclass(frozen=True)
class Frame:
    """One step as the page shows it.

    picture: base64 of a JPEG. bars: what was decided in the pictured state.
    """

    picture: str
    bars: list[Bar]
    episode_return: float
    step: int
    version: int


class Stage:
    """An environment with a policy in it; starts the next episode by itself.

    Args:
        kwargs: with which the environment is made.

    Raises:
        gymnasium.error.Error: when the environment is not known here or cannot be drawn.
        ImportError: when a package that it needs is not installed here.
    """

    def __init__(
        self, environment: str, seed: int, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self._environment: gymnasium.Env[Any, Any] = gymnasium.make(
            environment, **{**(kwargs or {}), "render_mode": "rgb_array"}
        )
        self.frames_per_s = float(
            self._environment.metadata.get("render_fps") or DEFAULT_FRAMES_PER_S
        )
        self._seed = seed
        self.episodes = 0
        self.latencies_s: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self.reset()

    def reset(self) -> None:
        """Begin an episode; each has a seed of its own."""
        seed = self._seed + self.episodes
        self._observation, self._info = self._environment.reset(seed=seed)
        self.episodes += 1
        self._return = 0.0
        self._step = 0
        self._ended = False

    def step(self, client: Client, choice: Choice) -> Frame:
        """Ask the policy, picture the state it was asked in, and take the action.

        Raises:
            tutelage.TutelageError: when the call fails; the state is as it was.
        """
        if self._ended:
            self.reset()
        picture = _jpeg(self._environment.render())
        started = time.perf_counter()
        decision = client.act(
            self._observation,
            policy=choice.policy,
            version=choice.version,
            alias=choice.alias,
            mask=self._info.get("action_mask") if choice.masked else None,
            sample=choice.sample,
            temperature=choice.temperature,
            probabilities=True,
        )
        self.latencies_s.append(time.perf_counter() - started)
        observation, reward, terminated, truncated, info = self._environment.step(decision.action)
        self._observation, self._ended = observation, terminated or truncated
        self._info = info
        self._return += float(reward)
        self._step += 1
        return Frame(
            picture=picture,
            bars=bars(choice.space, decision),
            episode_return=self._return,
            step=self._step,
            version=decision.version,
        )

    def latency_ms(self, share: float) -> float:
        """A quantile of the calls' latency in milliseconds; 0 before the first call."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[int(share * (len(ordered) - 1))] if ordered else 0.0

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()


def _jpeg(pixels: Any) -> str:
    image = Image.fromarray(pixels)
    if image.width > MOST_PIXELS_WIDE:
        image.thumbnail((MOST_PIXELS_WIDE, MOST_PIXELS_WIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(file.getvalue()).decode()
