"""MinAtar and Atari: what is observed, that it is the same again, and that a run goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from services.common.replay import ReplayStore, open_replay
from services.common.replay.policy_schema import replay_schema
from services.trainer import environments
from services.trainer.collector import Choice, Collector
from services.trainer.config import DQNRun, EnvironmentConfig, load_preset
from services.trainer.published import PublishedPolicy
from services.trainer.resources import Resources
from services.trainer.runs.execute import execute, values_spec
from services.trainer.runs.frames import check_stacks
from services.trainer.runs.store import RunStore
from tutelage.v1 import training_pb2

SMALL = {
    "environment.num_envs": "2",
    "replay.capacity": "2000",
    "replay.min_replay_size": "64",
    "dqn.batch_size": "8",
    "evaluation.episodes": "1",
    "evaluation.period": "1000000",
}
PONG = EnvironmentConfig(id="Atari-v5", num_envs=2, kwargs={"game": "pong"})


@pytest.mark.parametrize(("game", "channels"), [("Breakout", 4), ("Asterix", 4), ("Seaquest", 10)])
def test_minatar_is_the_same_again_from_its_seed(game: str, channels: int) -> None:
    env: Any = gym.make(f"MinAtar{game}-v1", render_mode="rgb_array")
    assert env.observation_space.shape == (channels, 10, 10)
    played = []
    for _ in range(2):
        seen, _ = env.reset(seed=3)
        generator, episode = np.random.default_rng(0), [seen]
        over = False
        while not over and len(episode) < 200:
            action = int(generator.integers(env.action_space.n))
            seen, reward, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
            episode += [seen, np.array([reward, terminated])]
        assert set(np.unique(seen)) <= {0, 255}
        assert env.render().shape == (400, 400, 3)
        played.append(episode)
    for first, again in zip(*played, strict=True):
        np.testing.assert_array_equal(first, again)
    env.reset()
    env.close()


def test_minatar_goes_on_differently_without_a_seed() -> None:
    env: Any = gym.make("MinAtarBreakout-v1")
    starts = [env.reset(seed=0)[0].tobytes()] + [env.reset()[0].tobytes() for _ in range(9)]
    assert len(set(starts)) > 1
    env.close()


def test_atari_follows_the_usual_preprocessing() -> None:
    envs = environments.make(PONG)
    assert envs.single_observation_space.shape == (4, 84, 84)
    assert envs.single_action_space.n == 6  # type: ignore[attr-defined]
    first, _ = envs.reset(seed=0)
    check_stacks(first, 4, "zero")
    generator, seen = np.random.default_rng(0), first
    for _ in range(30):
        before = seen.copy()
        seen, rewards, *_ = envs.step(generator.integers(6, size=2))
        np.testing.assert_array_equal(seen[:, :3], before[:, 1:])
        assert set(rewards) <= {-1, 0, 1}
    again = environments.make(PONG)
    np.testing.assert_array_equal(again.reset(seed=0)[0], first)
    single: Any = gym.make("Atari-v5", render_mode="rgb_array", **PONG.kwargs)
    np.testing.assert_array_equal(single.reset(seed=0)[0], first[0])
    assert single.step(0)[0].shape == (4, 84, 84)
    assert single.render().shape == (420, 420, 3)
    single.close()


def test_atari_rewards_are_clipped_for_learning_alone() -> None:
    config = EnvironmentConfig(id="Atari-v5", num_envs=2, kwargs={"game": "space_invaders"})
    envs = environments.make(config)
    generator, schema = np.random.default_rng(0), replay_schema(values_spec(config), 4)
    collector = Collector(envs, schema, seed=0, reward_limit=1.0)
    episodes = []
    while len(episodes) < 2:
        _, ended = collector.step(
            lambda seen: Choice(generator.integers(6, size=len(seen)), np.zeros(2, np.float32))
        )
        episodes += ended
    rows = collector.take()
    assert set(rows["reward"]) == {0, 1}
    assert max(episode.episode_return for episode in episodes) > rows["reward"].sum()


def test_atari_is_kept_frame_by_frame_and_given_back_in_stacks(resources: Resources) -> None:
    """Episodes of a few steps, so that many ends lie within what is compared."""
    config = EnvironmentConfig(
        id="Atari-v5", num_envs=2, kwargs={"game": "pong", "max_num_frames_per_episode": 40}
    )
    envs = environments.make(config)
    schema = replay_schema(values_spec(config), 4, "zero")
    store = ReplayStore(resources.redis, "atari", schema, 1000)
    replay = open_replay(resources.redis, "atari", schema, 1000, generator=np.random.default_rng(0))
    collector, generator = Collector(envs, schema, seed=0), np.random.default_rng(0)
    check_stacks(collector.observations, 4, "zero")
    seen: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    for _ in range(40):
        ids, steps, before = (
            collector._episode_ids.copy(),
            collector._steps.copy(),
            collector.observations,
        )
        live = ~collector._ended
        collector.step(
            lambda seen: Choice(generator.integers(6, size=len(seen)), np.zeros(2, np.float32))
        )
        for i in np.flatnonzero(live):
            key = int(ids[i]), int(steps[i])
            seen[key] = before[i].tobytes(), collector.observations[i].tobytes()
    replay.append(collector.take())
    replay.sync()
    assert schema.row_bytes < 84 * 84 + 100
    batch = replay.sample(300)
    assert batch.truncated.any()
    assert not batch.terminated.any()
    for row, now, following in zip(
        batch.rows, batch.observation, batch.next_observation, strict=True
    ):
        key = int(row["episode_id"]), int(row["step"])
        assert (now.tobytes(), following.tobytes()) == seen[key]
    assert store.name == "atari"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("minatar-breakout-dqn", {"dqn.total_env_steps": "400"}),
        ("minatar-asterix-dqn", {"dqn.total_env_steps": "400"}),
        (
            "pong-dqn",
            {
                "dqn.total_env_steps": "200",
                "environment.kwargs.max_num_frames_per_episode": "200",
            },
        ),
    ],
)
def test_presets_of_games_learn_and_publish(
    name: str, changes: dict[str, str], resources: Resources, tmp_path: Path
) -> None:
    config = load_preset(name, SMALL | changes)
    assert isinstance(config, DQNRun)
    run = RunStore(tmp_path / "runs").create(name, config)
    assert execute(run, resources) == training_pb2.RUN_STATUS_SUCCEEDED
    published = PublishedPolicy(resources.registry, config.policy, "stable")
    spec = published.manifest.spec
    assert spec.environment_kwargs == config.environment.kwargs
    seen = np.zeros((3, *spec.observation.shape), np.uint8)  # type: ignore[union-attr]
    assert published.greedy(seen).shape == (3,)
