"""Frames are what Gymnasium draws; what is trained on them is served, watched and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from inference_process import InferenceProcess
from numpy.typing import NDArray

from services.common.clips import probe
from services.feedback.app.acting import Choice, Stage
from services.pixels.cartpole import BOTTOM, TOP, Screen, pushed
from services.trainer import environments
from services.trainer.config import EnvironmentConfig, RecordingConfig, load_preset
from services.trainer.published import PublishedPolicy
from services.trainer.resources import Resources
from services.trainer.runs.execute import execute
from services.trainer.runs.store import RunStore
from services.trainer.segments import Source, choose_windows, draw, open_environment, play
from tutelage.v1 import training_pb2

BLOCKS = 8


def states() -> NDArray[np.float64]:
    """Positions and angles, some of them beyond where an episode ends."""
    generator = np.random.default_rng(0)
    drawn = generator.uniform((-2.6, -0.35), (2.6, 0.35), (150, 2))
    return np.concatenate([drawn, [(0, 0), (-2.4, 0.2), (2.4, -0.2)]])


def averaged(screen: NDArray[np.uint8], block: int) -> NDArray[np.float64]:
    """(h, w, c) → (c, h / block, w / block)"""
    cropped = screen[TOP:BOTTOM].astype(float)
    h, w, c = cropped.shape
    blocks = cropped.reshape(h // block, block, w // block, block, c)
    return np.floor(blocks.mean(axis=(1, 3)) + 0.5).transpose(2, 0, 1)


@pytest.mark.parametrize("block", [1, BLOCKS])
def test_frames_are_gymnasiums_screen(block: int) -> None:
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    color, grey = Screen(block, color=True), Screen(block, color=False)
    luminance = np.array([0.299, 0.587, 0.114])
    for position, angle in states():
        env.unwrapped.state = np.array([position, 0, angle, 0])  # type: ignore[attr-defined]
        screen: Any = env.render()
        expected = averaged(screen, block)
        np.testing.assert_array_equal(color.draw(position, angle), expected)
        off = grey.draw(position, angle) - averaged((screen @ luminance)[..., None], block)[0]
        assert np.abs(off).max() <= 1
    env.close()


def test_stacks_begin_anew_with_their_episodes() -> None:
    config = EnvironmentConfig(id="CartPolePixels-v1", kwargs={"stack": 3, "block": BLOCKS})
    envs, screen = environments.make(config, num_envs=2), Screen(BLOCKS, color=False)
    seen, _ = envs.reset(seed=0)
    assert seen.shape == (2, 3, 20, 75)
    assert (seen == seen[:, -1:]).all()
    began, ended, ends = np.zeros(2, bool), np.zeros(2, bool), 0
    for _ in range(60):
        before = seen
        seen, _, terminated, truncated, _ = envs.step(np.array([1, 0]))
        began, ended = ended, terminated | truncated
        positions, _, angles, _ = envs.unwrapped.state  # type: ignore[attr-defined]
        frames = np.stack([screen.draw(*pair) for pair in zip(positions, angles, strict=True)])
        np.testing.assert_array_equal(seen, pushed(before, frames, began))
        assert (seen[began] == seen[began][:, -1:]).all()
        ends += int(ended.sum())
    assert ends > 2


def test_a_single_environment_shows_the_same() -> None:
    env: Any = gym.make("CartPolePixels-v1", stack=3, block=BLOCKS)
    screen, over = Screen(BLOCKS, color=False), False
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    assert (seen == seen[-1:]).all()
    while not over:
        before = seen.copy()
        seen, _, over, _, _ = env.step(1)
        position, _, angle, _ = env.unwrapped.state
        frame = screen.draw(position, angle)
        np.testing.assert_array_equal(seen, np.stack([*before[1:], frame]))
    seen, _ = env.reset()
    assert (seen == seen[-1:]).all()


def test_a_block_that_leaves_a_remainder_is_refused() -> None:
    with pytest.raises(Exception, match="divisor of 40"):
        environments.make(EnvironmentConfig(id="CartPolePixels-v1", kwargs={"block": 7}))


SMALL = {
    "environment.num_envs": "2",
    "replay.capacity": "600",
    "replay.min_replay_size": "32",
    "dqn.batch_size": "8",
    "dqn.total_env_steps": "96",
    "dqn.env_steps_per_update": "8",
    "evaluation.episodes": "2",
    "evaluation.period": "1000000",
}


@pytest.mark.parametrize("name", ["cartpole-pixels-lecture", "cartpole-pixels-dqn"])
def test_what_was_trained_by_sight_is_served_watched_and_recorded(
    name: str, resources: Resources, tmp_path: Path
) -> None:
    config = load_preset(name, SMALL)
    run = RunStore(tmp_path / "runs").create(name, config)
    assert execute(run, resources) == training_pb2.RUN_STATUS_SUCCEEDED
    published = PublishedPolicy(resources.registry, config.policy, "stable")
    process = InferenceProcess(tmp_path / "policies", tmp_path / "log")
    try:
        spec = process.client.policy(config.policy).spec
        stack, channels = (2, [3]) if name.endswith("lecture") else (4, [])
        assert list(spec.observation.shape)[: 1 + len(channels)] == [stack, *channels]
        stage = Stage(spec.environment, 3, config.environment.kwargs)  # type: ignore[union-attr]
        choice = Choice(config.policy, spec.action, 0, "stable", sample=False, temperature=1.0)
        for _ in range(3):
            seen = stage._observation
            decision = process.client.act(seen, policy=config.policy)
            assert decision.action == published.greedy(seen[None])[0]
            assert stage.step(process.client, choice).picture
        stage.close()
    finally:
        process.stop()
    _record(config.environment, Source(published.greedy, 1))  # type: ignore[union-attr]


def _record(environment: EnvironmentConfig, source: Source) -> None:
    envs = [open_environment(environment) for _ in range(2)]
    recording = RecordingConfig(segments=1, length=4, episodes=2, max_epsilon=1.0, misreading=0.0)
    generator = np.random.default_rng(0)
    episodes = play(envs, source, recording, 0.0, generator)
    assert episodes[0].observations.dtype == np.uint8
    windows = choose_windows(episodes, 4, 1, generator)
    (segment,) = draw(envs[0], episodes, windows, 4, "cartpole-pixels")
    assert probe(segment.clip).frames == 4
    shape = (4, *segment.observation_shape)
    kept = np.frombuffer(segment.observations, "<f4").reshape(shape)
    start = segment.start_step
    np.testing.assert_array_equal(
        kept, episodes[windows[0].episode].observations[start : start + 4]
    )
    for env in envs:
        env.close()
