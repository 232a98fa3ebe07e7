"""Segments of real behaviour: CartPole, played, cut and drawn."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from services.common.clips import probe
from services.common.errors import InvalidConfig
from services.trainer.config import EnvironmentConfig, RecordingConfig
from services.trainer.evaluate import StepReward
from services.trainer.segments import (
    Env,
    Played,
    Source,
    Window,
    choose_windows,
    draw,
    open_environment,
    play,
)
from tutelage.v1 import feedback_pb2 as pb

CARTPOLE = EnvironmentConfig(id="CartPole-v1")
LENGTH = 12
EPISODES = 6
RECORDING = RecordingConfig(segments=6, length=LENGTH, max_epsilon=0.8, misreading=0)


class Drifting(CartPoleEnv):
    """Starts elsewhere at each reset, whatever the seed, and does not say so."""

    resets = 0

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = super().reset(**kwargs)
        self.resets += 1
        self.state = np.asarray(self.state) + 1e-3 * self.resets
        return observation + np.float32(1e-3 * self.resets), info


class Silent(gym.Env[np.ndarray, np.int64]):
    """Draws nothing that a program could look at."""

    metadata = {"render_modes": ["human"]}  # noqa: RUF012 - as Gymnasium has it
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode


class Blind(Silent):
    """Knows nothing of drawing."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self) -> None:
        pass


gym.register("SegmentsDrifting-v0", Drifting, max_episode_steps=60)
gym.register("SegmentsAdmitted-v0", CartPoleEnv, nondeterministic=True)
gym.register("SegmentsSilent-v0", Silent)
gym.register("SegmentsBlind-v0", Blind)


def balance(observations: np.ndarray) -> np.ndarray:
    """Push where the pole falls."""
    return (observations[:, 2] + observations[:, 3] > 0).astype(np.int64)


def played(env: Env, recording: RecordingConfig = RECORDING, seed: int = 0) -> list[Played]:
    generator = np.random.default_rng(seed)
    source = Source(balance, version=3)
    return [e for _ in range(EPISODES) for e in play([env], source, recording, 0.0, generator)]


@pytest.fixture(scope="module")
def episodes() -> list[Played]:
    env = open_environment(CARTPOLE)
    found = played(env)
    env.close()
    return found


def test_episodes_are_what_was_seen_done_and_earned(episodes: list[Played]) -> None:
    assert {episode.version for episode in episodes} == {3}
    assert len({episode.seed for episode in episodes}) == len(episodes)
    for episode in episodes:
        steps = len(episode.actions)
        assert episode.observations.shape == (steps, 4)
        assert episode.observations.dtype == np.float32
        assert episode.rewards.tolist() == [1.0] * steps
        assert episode.terminated == (steps < 500)


def test_the_policy_errs_at_times_in_some_episodes_and_never_without_epsilon() -> None:
    env = open_environment(CARTPOLE)
    erring = played(env)
    exact = played(env, RECORDING.model_copy(update={"max_epsilon": 0.0}))
    env.close()

    def errors(episode: Played) -> int:
        return int((episode.actions != balance(episode.observations)).sum())

    assert sum(errors(e) > 0 for e in erring) > 0
    assert [errors(e) for e in exact] == [0] * len(exact)


def stay(observations: np.ndarray) -> np.ndarray:
    """Balance near the middle of the track."""
    worth = observations @ np.array([0.5, 1.0, 10.0, 2.5], np.float32)
    return (worth > 0).astype(np.int64)


def test_a_policy_that_misreads_does_as_well_elsewhere() -> None:
    envs = [open_environment(CARTPOLE) for _ in range(24)]
    usual = np.array([0.3, 0.0, 0.0, 0.0])

    def places(spread: np.ndarray | float) -> tuple[np.ndarray, list[int]]:
        recording = RecordingConfig(max_epsilon=0, misreading=2.0)
        found = play(envs, Source(stay, 1), recording, spread, np.random.default_rng(0))
        return np.array([e.observations[-50:, 0].mean() for e in found]), [
            len(e.actions) for e in found
        ]

    at_home, lengths = places(0.0)
    away, lengths_away = places(usual)
    for env in envs:
        env.close()
    assert np.abs(at_home).max() < 0.2
    assert 0.4 < away.std() < 0.8
    assert away.min() < -0.5
    assert away.max() > 0.5
    assert min(lengths + lengths_away) == 500


def test_what_is_misread_is_recorded_as_it_was() -> None:
    env = open_environment(CARTPOLE)
    misread: list[np.ndarray] = []

    def act(observations: np.ndarray) -> np.ndarray:
        misread.append(observations[0])
        return balance(observations)

    recording = RecordingConfig(max_epsilon=0, misreading=1.0)
    (found,) = play([env], Source(act, 1), recording, np.full(4, 0.01), np.random.default_rng(0))
    env.reset(seed=found.seed)
    again = [env.step(int(action))[0] for action in found.actions]
    env.close()
    np.testing.assert_array_equal(found.observations[1:], np.stack(again)[:-1])
    offsets = np.stack(misread) - found.observations
    assert offsets.std(axis=0).max() < 1e-6
    assert (np.abs(offsets[0]) > 1e-5).all()


def test_a_misread_observation_is_one_that_the_environment_could_give() -> None:
    env = open_environment(CARTPOLE)
    misread: list[np.ndarray] = []

    def act(observations: np.ndarray) -> np.ndarray:
        misread.append(observations[0])
        return balance(observations)

    recording = RecordingConfig(max_epsilon=0, misreading=1.0)
    play([env], Source(act, 1), recording, np.full(4, 100.0), np.random.default_rng(0))
    assert all(env.observation_space.contains(seen) for seen in misread)
    env.close()


def test_numbers_of_states_are_not_misread() -> None:
    lake = EnvironmentConfig(id="FrozenLake-v1", kwargs={"is_slippery": False})
    asked: list[np.ndarray] = []

    def act(states: np.ndarray) -> np.ndarray:
        asked.append(states)
        return np.full(len(states), 2)

    recording = RECORDING.model_copy(update={"misreading": 3.0, "max_epsilon": 0.0})
    envs = [open_environment(lake) for _ in range(2)]
    played = play(envs, Source(act, 1), recording, 5.0, np.random.default_rng(0))
    assert [episode.observations[0] for episode in played] == [0, 0]
    assert asked[1].tolist() == [1, 1]
    assert asked[1].dtype.kind == "i"


def test_episodes_side_by_side_are_of_their_own() -> None:
    envs = [open_environment(CARTPOLE) for _ in range(5)]
    found = play(envs, Source(balance, 1), RECORDING, 0.0, np.random.default_rng(0))
    assert len({episode.seed for episode in found}) == 5
    assert len({episode.digest for episode in found}) == 5
    for episode in found:
        observation, _ = envs[0].reset(seed=episode.seed)
        for seen, action in zip(episode.observations, episode.actions, strict=True):
            np.testing.assert_array_equal(seen, observation)
            observation, _, terminated, truncated, _ = envs[0].step(int(action))
        assert terminated == episode.terminated
        assert terminated or truncated
    for env in envs:
        env.close()


def test_windows_are_of_equal_length_apart_and_without_an_end_in_them() -> None:
    generator = np.random.default_rng(0)

    def made_up(length: int, terminated: bool) -> Played:
        seen = generator.normal(size=(length, 4)).astype(np.float32)
        zeros = np.zeros(length)
        return Played(0, 0, seen, zeros.astype(np.int64), zeros.astype(np.float32), terminated)

    made = [made_up(30, True), made_up(30, False), made_up(10, True), made_up(10, False)]
    made += [made_up(9, False)]
    chosen = choose_windows(made, 10, 100, np.random.default_rng(0))
    # Of 30 steps of which the last terminates, 29 can be used; 10 that are cut short, all.
    expected = {(0, 0), (0, 10), (1, 0), (1, 10), (1, 20), (3, 0)}
    assert {(w.episode, w.start) for w in chosen} == expected
    assert len(chosen) == len(expected)


def test_where_no_episode_is_long_enough_there_are_no_windows(episodes: list[Played]) -> None:
    assert choose_windows(episodes, 501, 10, np.random.default_rng(0)) == []


def test_windows_of_more_reward_are_chosen_more_readily(episodes: list[Played]) -> None:
    def reward(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        assert len(observations) == len(actions)
        return (4 * np.sign(observations[:, 0])).astype(np.float32)

    def right(reward: StepReward | None) -> int:
        chosen = choose_windows(episodes, 6, 20, np.random.default_rng(0), reward)
        assert len(chosen) == 20
        places = [episodes[w.episode].observations[w.start : w.start + 6, 0] for w in chosen]
        return sum(place.mean() > 0 for place in places)

    assert right(reward) > right(None)


def test_no_window_of_real_episodes_holds_an_end(episodes: list[Played]) -> None:
    assert any(episode.terminated for episode in episodes)
    for window in choose_windows(episodes, LENGTH, 100, np.random.default_rng(0)):
        last = window.start + LENGTH - 1
        assert last < len(episodes[window.episode].actions) - episodes[window.episode].terminated


def test_segments_hold_what_was_seen_and_a_clip_frame_for_step(episodes: list[Played]) -> None:
    windows = choose_windows(episodes, LENGTH, 6, np.random.default_rng(0))
    env = open_environment(CARTPOLE)
    segments = list(draw(env, episodes, windows, LENGTH, "cartpole"))
    env.close()
    assert len(segments) == len(windows) == 6
    ordered = sorted(windows, key=lambda w: (w.episode, w.start))
    for window, segment in zip(ordered, segments, strict=True):
        check(segment, episodes[window.episode], window)
    groups = {(w.episode, s.episode_id) for w, s in zip(ordered, segments, strict=True)}
    assert len(groups) == len({w.episode for w in windows})


def check(segment: pb.Segment, episode: Played, window: Window) -> None:
    part = slice(window.start, window.start + LENGTH)
    assert (segment.policy, segment.policy_version) == ("cartpole", 3)
    assert (segment.start_step, segment.length) == (window.start, LENGTH)
    assert list(segment.observation_shape) == [4]
    seen = np.frombuffer(segment.observations, "<f4").reshape(LENGTH, 4)
    np.testing.assert_array_equal(seen, episode.observations[part])
    np.testing.assert_array_equal(np.frombuffer(segment.actions, "<i8"), episode.actions[part])
    np.testing.assert_array_equal(np.frombuffer(segment.rewards, "<f4"), episode.rewards[part])
    clip = probe(segment.clip)
    assert (clip.frames, clip.codec) == (LENGTH, "h264")
    assert clip.frames_per_s == segment.frames_per_s == 50


def test_each_window_is_drawn_once_and_from_its_own_step(episodes: list[Played]) -> None:
    longest = max(range(len(episodes)), key=lambda i: len(episodes[i].actions))
    # Neighbours, a gap, and out of order.
    windows = [Window(longest, start) for start in (2 * LENGTH, 0, LENGTH // 2 * 8)]
    env = open_environment(CARTPOLE)
    segments = list(draw(env, episodes, windows, LENGTH, "cartpole"))
    env.close()
    assert [s.start_step for s in segments] == sorted(w.start for w in windows)
    for window, segment in zip(sorted(windows, key=lambda w: w.start), segments, strict=True):
        check(segment, episodes[longest], window)


def test_the_same_generator_plays_the_same_again(episodes: list[Played]) -> None:
    env = open_environment(CARTPOLE)
    again = played(env)
    env.close()
    for one, two in zip(episodes, again, strict=True):
        np.testing.assert_array_equal(one.observations, two.observations)
        np.testing.assert_array_equal(one.actions, two.actions)
        assert one.digest == two.digest


def test_an_environment_that_says_it_is_not_deterministic_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="not the same for the same seed"):
        open_environment(EnvironmentConfig(id="SegmentsAdmitted-v0"))


def test_an_environment_found_not_to_be_deterministic_is_refused() -> None:
    env = open_environment(EnvironmentConfig(id="SegmentsDrifting-v0"))
    found = played(env)
    windows = choose_windows(found, LENGTH, 2, np.random.default_rng(0))
    with pytest.raises(InvalidConfig, match="differs when it is played again"):
        list(draw(env, found, windows, LENGTH, "cartpole"))
    env.close()


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("SegmentsSilent-v0", r"it draws \['human'\] only"),
        ("SegmentsBlind-v0", "render_mode"),
        ("NoSuch-v0", "doesn't exist"),
    ],
)
def test_an_environment_that_cannot_be_drawn_is_refused(name: str, why: str) -> None:
    with pytest.raises(InvalidConfig, match=f"{name} cannot be shown: .*{why}"):
        open_environment(EnvironmentConfig(id=name))


def test_a_keyword_that_an_environment_does_not_take_is_named() -> None:
    with pytest.raises(InvalidConfig, match="gravitas"):
        open_environment(EnvironmentConfig(id="CartPole-v1", kwargs={"gravitas": 9.8}))


def test_an_environment_without_discrete_actions_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"Pendulum-v1 acts in Box.* of Discrete actions only"):
        open_environment(EnvironmentConfig(id="Pendulum-v1"))
