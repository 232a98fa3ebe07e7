"""Cuts behaviour into segments with clips, for people to compare.

Many episodes are played without being drawn; segments that differ are chosen from them; and
only those are drawn, by playing their episodes again, which are the same for the same seed and
actions.

A good policy goes to few places, and what people like may lie elsewhere. So in most episodes
it is made to misread what it sees: one that holds something where it should be then holds it
elsewhere, just as well. That shows far more than errors would, which it soon corrects.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from services.common.clips import encode
from services.common.errors import InvalidConfig
from services.trainer.action_masks import mask_of, unpacked
from services.trainer.config import EnvironmentConfig, RecordingConfig
from services.trainer.diversity import by_change_within, spread_out
from services.trainer.environments import seed_from
from services.trainer.evaluate import StepReward
from services.trainer.exploration import EpsilonGreedy
from tutelage.v1 import feedback_pb2 as pb

Act = Callable[..., npt.NDArray[np.int64]]
Env = gym.Env[Any, Any]
DEFAULT_FRAMES_PER_S = 30.0
ENCODED_AHEAD = 2  # clips; their frames are held until then


@dataclass(frozen=True)
class Source:
    """A policy that acts, (B, *shape) → (B,), and its version; 0 when it is not published.

    masked: it takes masks too, (B, actions).
    """

    act: Act
    version: int
    masked: bool = False


@dataclass(frozen=True)
class Played:
    """An episode. T is its length.

    observations: (T, *shape) each action was chosen in, float32, or uint8 of pictures; actions,
        rewards: (T,)
    """

    version: int
    seed: int
    observations: npt.NDArray[Any]
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    terminated: bool

    @property
    def digest(self) -> str:
        """Of what happened, so that the same episode has the same name wherever it is played."""
        content = hashlib.sha256(f"{self.version}:{self.seed}:".encode())
        for array in (self.observations, self.actions):
            content.update(array.tobytes())
        return content.hexdigest()[:16]


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
        env: Env = unpacked(gym.make(environment.id, **kwargs))
    except (gym.error.Error, TypeError) as error:  # the latter for keywords it does not take
        raise InvalidConfig(f"environment {environment.id} cannot be shown: {error}") from None
    modes = env.metadata.get("render_modes", [])
    if "rgb_array" not in modes:
        raise InvalidConfig(f"environment {environment.id} cannot be shown: it draws {modes} only")
    if env.spec is not None and env.spec.nondeterministic:
        raise InvalidConfig(f"environment {environment.id} is not the same for the same seed")
    if isinstance(env.observation_space, gym.spaces.Dict):
        raise InvalidConfig(
            f"environment {environment.id} observes several parts; segments hold one array a step"
        )
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise InvalidConfig(
            f"environment {environment.id} acts in {env.action_space}; segments are recorded of "
            "Discrete actions only"
        )
    return env


def play(
    envs: Sequence[Env],
    source: Source,
    recording: RecordingConfig,
    spread: npt.NDArray[np.float64] | float,
    generator: np.random.Generator,
) -> list[Played]:
    """An episode in each environment, side by side, of a policy that misreads and errs.

    Throughout an episode each element of a Box that it sees is off by as much: normally
    distributed, `recording.misreading` times the element's spread. It errs by an ε drawn for
    the episode, small more often than large, with erring actions that are held for a while.

    Args:
        envs: of one kind, with discrete actions.
        spread: of what is seen without misreading, *shape; 0 for none of it.
    """
    space: Any = envs[0].observation_space
    actions_n = int(envs[0].action_space.n)  # type: ignore[attr-defined]
    epsilons = recording.max_epsilon * generator.random(len(envs)) ** 2
    explorer = EpsilonGreedy(len(envs), recording.repeat, generator)
    offsets = generator.normal(size=(len(envs), *space.shape)) * recording.misreading * spread
    playing = [_Playing(env, seed_from(generator)) for env in envs]
    while not all(episode.over for episode in playing):
        seen = np.stack([episode.observation for episode in playing])  # (B, *shape)
        if isinstance(space, gym.spaces.Box):  # the number of a state is read right or not at all
            seen = np.clip(seen + offsets, space.low, space.high).astype(seen.dtype)
        masks = None
        if source.masked:
            masks = np.stack([mask_of(episode.info, actions_n) for episode in playing])  # (B, A)
        acting = source.act(seen) if masks is None else source.act(seen, masks)
        best = np.eye(actions_n, dtype=np.float32)[acting]  # (B, A)
        chosen = explorer.choose(best, epsilons, masks).actions
        for episode, action in zip(playing, chosen, strict=True):
            episode.step(int(action))
    return [episode.played(source.version) for episode in playing]


class _Playing:
    """An episode under way; nothing more happens once it is over."""

    def __init__(self, env: Env, seed: int) -> None:
        self._env, self._seed = env, seed
        self.observation, self.info = env.reset(seed=seed)
        self.over = self._terminated = False
        self._steps: list[tuple[Any, int, float]] = []

    def step(self, action: int) -> None:
        if self.over:
            return
        seen = _stored(self.observation)
        self.observation, reward, self._terminated, truncated, self.info = self._env.step(action)
        self._steps.append((seen, action, float(reward)))
        self.over = self._terminated or truncated

    def played(self, version: int) -> Played:
        observations, actions, rewards = zip(*self._steps, strict=True)
        return Played(
            version,
            self._seed,
            np.stack(observations),
            np.array(actions, np.int64),
            np.array(rewards, np.float32),
            bool(self._terminated),
        )


def _stored(observation: Any) -> npt.NDArray[Any]:
    """As episodes are kept: pictures take four times the room as float32."""
    array: npt.NDArray[Any] = np.array(observation)
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def choose_windows(
    episodes: list[Played],
    length: int,
    count: int,
    generator: np.random.Generator,
    reward: StepReward | None = None,
) -> list[Window]:
    """Windows of equal length that differ in what is seen on average, beside how much that
    changes within one: where something stays for a while tells windows apart, its trembling
    does not.

    One in which an episode terminates is left out: it would be compared by its end alone, and
    the environment's reward teaches about ends already.

    Args:
        reward: of a step, as learned so far; a window is drawn e times as readily for 1 more
            in its mean, for where that is high a policy will be led next.
    """
    windows = [
        Window(number, start)
        for number, episode in enumerate(episodes)
        for start in range(0, _usable(episode) - length + 1, length)
    ]
    if not windows:
        return []
    seen = [episodes[w.episode].observations[w.start : w.start + length] for w in windows]
    weights = None
    if reward is not None:
        done = [episodes[w.episode].actions[w.start : w.start + length] for w in windows]
        rewards = reward(np.concatenate(seen).astype(np.float32), np.concatenate(done))
        weights = np.exp(rewards.reshape(-1, length).mean(axis=1, dtype=float))
    return [windows[i] for i in spread_out(by_change_within(seen), count, generator, weights)]


def _usable(episode: Played) -> int:
    return len(episode.actions) - int(episode.terminated)


def draw(
    env: Env,
    episodes: list[Played],
    windows: list[Window],
    length: int,
    policy: str,
) -> Iterator[pb.Segment]:
    """Play the windows' episodes again, and make segments with clips of the windows.

    A clip is encoded in another thread while the next is drawn, since each takes about as long.

    Raises:
        InvalidConfig: when an episode is not the same when it is played again.
    """
    frames_per_s = float(env.metadata.get("render_fps") or DEFAULT_FRAMES_PER_S)
    with ThreadPoolExecutor(1, "encode") as encoder:
        waiting = deque[tuple[Played, int, Future[bytes]]]()
        for episode, start, frames in _drawn(env, episodes, windows, length):
            waiting.append((episode, start, encoder.submit(encode, frames, frames_per_s)))
            if len(waiting) > ENCODED_AHEAD:
                yield _segment(policy, *waiting.popleft(), length, frames_per_s)
        while waiting:
            yield _segment(policy, *waiting.popleft(), length, frames_per_s)


def _segment(
    policy: str,
    episode: Played,
    start: int,
    clip: Future[bytes],
    length: int,
    frames_per_s: float,
) -> pb.Segment:
    part = slice(start, start + length)
    return pb.Segment(
        policy=policy,
        policy_version=episode.version,
        episode_id=episode.digest,
        start_step=start,
        length=length,
        observation_shape=episode.observations.shape[1:],
        observations=episode.observations[part].astype("<f4").tobytes(),
        actions=episode.actions[part].astype("<i8").tobytes(),
        rewards=episode.rewards[part].astype("<f4").tobytes(),
        clip=clip.result(),
        frames_per_s=frames_per_s,
    )


def _drawn(
    env: Env, episodes: list[Played], windows: list[Window], length: int
) -> Iterator[tuple[Played, int, npt.NDArray[np.uint8]]]:
    """Of each window its episode, start and frames, episode by episode."""
    for number in sorted({window.episode for window in windows}):
        starts = sorted(w.start for w in windows if w.episode == number)
        for start, frames in _frames(env, episodes[number], starts, length):
            yield episodes[number], start, frames


def _frames(
    env: Env, episode: Played, starts: list[int], length: int
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    observation, _ = env.reset(seed=episode.seed)
    drawn: list[npt.NDArray[np.uint8]] = []
    current = 0
    for step in range(starts[-1] + length):
        if not np.array_equal(_stored(observation), episode.observations[step]):
            raise InvalidConfig(f"{env.spec}: an episode differs when it is played again")
        if step >= starts[current]:
            drawn.append(np.asarray(env.render(), np.uint8))
        if len(drawn) == length:
            yield starts[current], np.stack(drawn)
            drawn, current = [], current + 1
            if current == len(starts):
                return
        observation, *_ = env.step(int(episode.actions[step]))
