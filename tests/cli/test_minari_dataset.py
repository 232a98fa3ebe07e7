"""Minari datasets of all kinds of spaces become replays."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import redis

from services.cli.minari_dataset import export_minari, open_minari
from services.common.embedded_redis import EmbeddedRedis
from services.common.errors import InvalidInput, PreconditionFailed
from services.common.replay import Field, ReplaySchema, ReplayStore, connect
from services.common.replay.dataset import Counts, all_stretches, append_stretches
from services.common.replay.inspect import verify

minari = pytest.importorskip("minari")
from minari.data_collector import EpisodeBuffer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Minari's advice to publishers

SPACE = gym.spaces.Dict(
    {
        "camera": gym.spaces.Box(0, 255, (4, 4, 3), np.uint8),
        "parts": gym.spaces.Tuple(
            (gym.spaces.Discrete(5), gym.spaces.Box(-1, 1, (2,), np.float32))
        ),
    }
)


@pytest.fixture(autouse=True)
def _datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def make(space: gym.Space, action: gym.Space, episodes: list[EpisodeBuffer]) -> None:
    minari.create_dataset_from_buffers(
        "test/some-v0",
        episodes,
        observation_space=space,
        action_space=action,
        data_format="parquet",
        jpeg_encoding=False,
    )


def an_episode(steps: int, generator: np.random.Generator) -> EpisodeBuffer:
    observations = {
        "camera": generator.integers(256, size=(steps + 1, 4, 4, 3), dtype=np.uint8),
        "parts": (
            generator.integers(5, size=steps + 1),
            generator.random((steps + 1, 2), np.float32),
        ),
    }
    return EpisodeBuffer(
        observations=observations,
        actions=generator.random((steps, 3), np.float32),
        rewards=generator.random(steps).tolist(),
        terminations=[False] * steps,
        truncations=[False] * (steps - 1) + [True],
    )


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory) -> redis.Redis:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server, connect(server.url) as client:
        yield client


def test_dicts_tuples_images_and_arrays_of_actions_enter_and_leave(client: redis.Redis) -> None:
    generator = np.random.default_rng(0)
    episodes = [an_episode(steps, generator) for steps in (3, 5)]
    make(SPACE, gym.spaces.Box(0, 1, (3,), np.float32), episodes)
    opened = open_minari("test/some-v0")
    assert opened.rows == 10
    assert opened.schema == ReplaySchema(
        (
            Field("observation.camera", "uint8", (4, 4, 3)),
            Field("observation.parts.0", "int64"),
            Field("observation.parts.1", "float32", (2,)),
        ),
        Field("action", "float32", (3,)),
        {"camera": None, "parts": (None, None)},
    )
    store = ReplayStore(client, "some", opened.schema, 100)
    assert append_stretches(store, opened.stretches()) == Counts(8, 2)
    assert all(not check.fault for check in verify(client, store))
    for stretch, episode in zip(all_stretches(store), episodes, strict=True):
        assert np.array_equal(stretch["observation.camera"], episode.observations["camera"])
        assert np.array_equal(stretch["observation.parts.0"], episode.observations["parts"][0])
        assert np.array_equal(stretch["action"][:-1], episode.actions)
        assert stretch["reward"][:-1] == pytest.approx(episode.rewards)
        assert stretch["truncated"].tolist()[-2:] == [True, False]

    assert export_minari(store, "test/again-v0") == Counts(8, 2)
    again = minari.load_dataset("test/again-v0")
    for found, episode in zip(again.iterate_episodes(), episodes, strict=True):
        assert np.array_equal(found.observations["camera"], episode.observations["camera"])
        assert np.array_equal(found.actions, episode.actions)


def test_what_a_replay_cannot_hold_is_refused(client: redis.Redis) -> None:
    words = EpisodeBuffer(
        observations=["a", "b"],
        actions=[0],
        rewards=[1.0],
        terminations=[True],
        truncations=[False],
    )
    make(gym.spaces.Text(4), gym.spaces.Discrete(2), [words])
    with pytest.raises(InvalidInput, match="a replay holds numbers of a fixed shape"):
        open_minari("test/some-v0")
    empty = ReplayStore(client, "empty", ReplaySchema.transitions((2,), "float32"), 10)
    with pytest.raises(PreconditionFailed, match="holds no steps"):
        export_minari(empty, "test/empty-v0")
