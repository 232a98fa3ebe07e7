"""Cuts behaviour into segments with clips, for people to compare.

Many episodes are played without being drawn; segments that differ are chosen from them; and
only those are drawn, by playing their episodes again, which are the same for the same seed and
actions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from services.common.clips import encode
from services.common.errors import InvalidConfig
from services.trainer.config import EnvironmentConfig, RecordingConfig
from services.trainer.diversity import spread_out
from services.trainer.environments import seed_from
from services.trainer.exploration import EpsilonGreedy
from tutelage.v1 import feedback_pb2 as pb

Act = Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]]
Env = gym.Env[Any, Any]
DEFAULT_FRAMES_PER_S = 30.0


@dataclass(frozen=True)
class Source:
    """A policy that acts, (B, *shape) → (B,), and its version; 0 when it is not published."""

    act: Act
    version: int


@dataclass(frozen=True)
class Played:
    """An episode. T is its length.

    observations: (T, *shape) each action was chosen in; actions, rewards: (T,)
    """

    version: int
    seed: int
    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    terminated: bool


@dataclass(frozen=True)
class Window:
    """Steps `start` to `start + length` of an episode."""

    episode: int
    start: int


def open_environment(environment: EnvironmentConfig) -> Env:
    """An environment that can be drawn.

    Raises:
        InvalidConfig: when it cannot.
    """
    kwargs = {**environment.kwargs, "render_mode": "rgb_array"}
    try:
        env: Env = gym.make(environment.id, **kwargs)
    except (gym.error.Error, TypeError) as error:  # the latter for keywords it does not take
        raise InvalidConfig(f"environment {environment.id} cannot be shown: {error}") from None
    modes = env.metadata.get("render_modes", [])
    if "rgb_array" not in modes:
        raise InvalidConfig(f"environment {environment.id} cannot be shown: it draws {modes} only")
    if env.spec is not None and env.spec.nondeterministic:
        raise InvalidConfig(f"environment {environment.id} is not the same for the same seed")
    return env


def play(
    env: Env, source: Source, recording: RecordingConfig, generator: np.random.Generator
) -> Played:
    """An episode of a policy that sometimes errs: by ε drawn for the episode, small more often
    than large, with erring actions that are held for a while."""
    epsilon = np.array([recording.max_epsilon * generator.random() ** 2])
    actions_n = int(env.action_space.n)  # type: ignore[attr-defined]
    explorer = EpsilonGreedy(1, recording.repeat, generator)
    seed = seed_from(generator)
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards = [], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        best = np.eye(actions_n, dtype=np.float32)[source.act(observation[None])]
        action = int(explorer.choose(best, epsilon).actions[0])
        observations.append(np.asarray(observation, np.float32))
        actions.append(action)
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
    return Played(
        source.version,
        seed,
        np.stack(observations),
        np.array(actions, np.int64),
        np.array(rewards, np.float32),
        bool(terminated),
    )


def choose_windows(
    episodes: list[Played], length: int, count: int, generator: np.random.Generator
) -> list[Window]:
    """Windows of equal length that differ in what is seen on average.

    One in which an episode terminates is left out: it would be compared by its end alone, and
    the environment's reward teaches about ends already.
    """
    windows = [
        Window(number, start)
        for number, episode in enumerate(episodes)
        for start in range(0, _usable(episode) - length + 1, length)
    ]
    if not windows:
        return []
    means = [
        episodes[w.episode].observations[w.start : w.start + length].mean(axis=0).ravel()
        for w in windows
    ]
    return [windows[i] for i in spread_out(np.stack(means), count, generator)]


def _usable(episode: Played) -> int:
    return len(episode.actions) - int(episode.terminated)


def draw(
    env: Env,
    episodes: list[Played],
    windows: list[Window],
    length: int,
    policy: str,
    run_id: str,
) -> Iterator[pb.Segment]:
    """Play the windows' episodes again, and make segments with clips of the windows.

    Raises:
        InvalidConfig: when an episode is not the same when it is played again.
    """
    frames_per_s = float(env.metadata.get("render_fps") or DEFAULT_FRAMES_PER_S)
    for number in sorted({window.episode for window in windows}):
        episode = episodes[number]
        starts = sorted(w.start for w in windows if w.episode == number)
        for start, frames in _frames(env, episode, starts, length):
            part = slice(start, start + length)
            yield pb.Segment(
                policy=policy,
                policy_version=episode.version,
                episode_id=hashlib.sha256(f"{run_id}:{number}".encode()).hexdigest()[:16],
                start_step=start,
                length=length,
                observation_shape=episode.observations.shape[1:],
                observations=episode.observations[part].astype("<f4").tobytes(),
                actions=episode.actions[part].astype("<i8").tobytes(),
                rewards=episode.rewards[part].astype("<f4").tobytes(),
                clip=encode(frames, frames_per_s),
                frames_per_s=frames_per_s,
            )


def _frames(
    env: Env, episode: Played, starts: list[int], length: int
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    observation, _ = env.reset(seed=episode.seed)
    drawn: list[npt.NDArray[np.uint8]] = []
    current = 0
    for step in range(starts[-1] + length):
        if not np.array_equal(np.asarray(observation, np.float32), episode.observations[step]):
            raise InvalidConfig(f"{env.spec}: an episode differs when it is played again")
        if step >= starts[current]:
            drawn.append(np.asarray(env.render(), np.uint8))
        if len(drawn) == length:
            yield starts[current], np.stack(drawn)
            drawn, current = [], current + 1
            if current == len(starts):
                return
        observation, *_ = env.step(int(episode.actions[step]))
