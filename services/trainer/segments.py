"""Cuts behaviour into segments with clips, for people to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from services.common.clips import encode
from services.common.errors import InvalidConfig
from services.trainer.config import EnvironmentConfig, RecordingConfig
from services.trainer.environments import seed_from
from tutelage.v1 import feedback_pb2 as pb

Act = Callable[[npt.NDArray[Any]], int]
DEFAULT_FRAMES_PER_S = 30.0


@dataclass
class _Steps:
    """The steps of the segment under way, and the picture of each."""

    observations: list[npt.NDArray[np.float32]] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    frames: list[npt.NDArray[np.uint8]] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A policy that acts, and its version."""

    act: Act
    policy: str
    version: int


class SegmentRecorder:
    """Plays episodes of a policy that sometimes errs, and cuts segments of equal length.

    Where an episode ends within a segment, the segment is dropped: one that is shorter, or
    that shows a fall, would be compared by its end alone, and the environment's reward
    teaches about ends already.

    Args:
        environment: one that renders; a copy of its own is made.
        generator: decides seeds and errors.
    """

    def __init__(
        self,
        environment: EnvironmentConfig,
        recording: RecordingConfig,
        generator: np.random.Generator,
    ) -> None:
        self._recording, self._generator = recording, generator
        kwargs = {**environment.kwargs, "render_mode": "rgb_array"}
        try:
            self._env: gym.Env[Any, Any] = gym.make(environment.id, **kwargs)
        except gym.error.Error as error:
            raise InvalidConfig(f"environment {environment.id} cannot be shown: {error}") from None
        self._frames_per_s = float(self._env.metadata.get("render_fps") or DEFAULT_FRAMES_PER_S)

    def close(self) -> None:
        """Let the environment go."""
        self._env.close()

    def episode(self, source: Source, run_id: str) -> Iterator[pb.Segment]:
        """Play an episode; its segments as they are complete."""
        seed = seed_from(self._generator)
        observation, _ = self._env.reset(seed=seed)
        choose = self._erring(source.act)
        episode_id = hashlib.sha256(f"{run_id}:{source.version}:{seed}".encode()).hexdigest()[:16]
        steps, start, step, over = _Steps(), 0, 0, False
        while not over:
            action = choose(observation)
            steps.frames.append(np.asarray(self._env.render(), np.uint8))
            steps.observations.append(np.asarray(observation, np.float32))
            steps.actions.append(action)
            observation, reward, terminated, truncated, _ = self._env.step(action)
            steps.rewards.append(float(reward))
            step += 1
            over = bool(terminated or truncated)
            if len(steps.actions) == self._recording.length and not terminated:
                yield self._segment(steps, source, episode_id, start)
                steps, start = _Steps(), step

    def _erring(self, act: Act) -> Act:
        """The policy, but for some steps, on which one action, drawn for the episode, is taken."""
        generator = self._generator
        epsilon = generator.uniform(0, self._recording.max_epsilon)
        favourite = int(generator.integers(self._env.action_space.n))  # type: ignore[attr-defined]

        def choose(observation: npt.NDArray[Any]) -> int:
            return favourite if generator.random() < epsilon else act(observation)

        return choose

    def _segment(self, steps: _Steps, source: Source, episode_id: str, start: int) -> pb.Segment:
        observations = np.stack(steps.observations)  # (T, *shape)
        return pb.Segment(
            policy=source.policy,
            policy_version=source.version,
            episode_id=episode_id,
            start_step=start,
            length=len(steps.actions),
            observation_shape=observations.shape[1:],
            observations=observations.astype("<f4").tobytes(),
            actions=np.array(steps.actions, "<i8").tobytes(),
            rewards=np.array(steps.rewards, "<f4").tobytes(),
            clip=encode(np.stack(steps.frames), self._frames_per_s),
            frames_per_s=self._frames_per_s,
        )
