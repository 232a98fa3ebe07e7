"""An environment that stacks frames, through the replay that keeps each of them once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation
from learning_rig import dqn_config, learn_dqn

from services.common.errors import InvalidConfig
from services.common.replay import ReplayStore, open_replay
from services.common.replay.policy_schema import replay_schema
from services.common.replay.schema import Pad
from services.common.spec import Distribution
from services.trainer import environments
from services.trainer.config import EnvironmentConfig
from services.trainer.runs.frames import check_stacks


class Counting(gym.Env[np.ndarray, np.int64]):
    """Shows the number of the step, beside one that tells episodes apart; ends after 5 steps."""

    observation_space = gym.spaces.Box(-1, 1000, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self._step = self._episode = 0

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(**options)
        self._step, self._episode = 1, self._episode + 1
        return self._frame(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._step += 1
        return self._frame(), 1.0, self._step > 5, False, {}

    def _frame(self) -> np.ndarray:
        return np.array([self._step, self._episode], np.float32)


def stacked(padding: str) -> Callable[[], gym.Env[Any, Any]]:
    return lambda: FrameStackObservation(Counting(), 3, padding_type=padding)


gym.register("ProbeFrames-v0", stacked("reset"), max_episode_steps=4)


def framed(environment: str, stack: int) -> Any:
    config = dqn_config(environment, total_env_steps=300)
    replay = config.replay.model_copy(update={"frame_stack": stack, "chunk_rows": 12})
    return config.model_copy(update={"replay": replay})


@pytest.mark.parametrize("stack", [1, 3])
def test_learners_are_given_the_stacks_that_were_observed(
    resources: Any, tmp_path: Path, stack: int
) -> None:
    learn_dqn(framed("ProbeFrames-v0", stack), resources, tmp_path)
    store = ReplayStore.open_existing(resources.redis, f"probe-{tmp_path.name}")
    assert store.schema.state[0].shape == ((2,) if stack == 3 else (3, 2))
    replay = open_replay(
        resources.redis,
        store.name,
        store.schema,
        store.capacity,
        generator=np.random.default_rng(0),
    )
    batch = replay.sample(300)
    now = batch.rows["step"][:, None] + 1
    newest = np.arange(-2, 1)
    np.testing.assert_array_equal(batch.observation[:, :, 0], np.maximum(now + newest, 1))
    np.testing.assert_array_equal(batch.next_observation[:, :, 0], np.maximum(now + newest + 1, 1))
    assert set(now[:, 0]) == {1, 2, 3, 4}
    assert (batch.observation[:, :, 1] == batch.next_observation[:, -1:, 1]).all()


def test_another_number_of_frames_is_refused() -> None:
    config = EnvironmentConfig(id="ProbeFrames-v0")
    spec = environments.spec_of(config, Distribution.Q_VALUES)
    assert replay_schema(spec, 3).state[0].shape == (2,)
    with pytest.raises(InvalidConfig, match="expected 4 frames on the first axis"):
        replay_schema(spec, 4)


@pytest.mark.parametrize(("padding", "pad"), [("reset", "first"), ("zero", "zero")])
def test_stacks_padded_in_another_way_are_refused(padding: str, pad: Pad) -> None:
    observations = stacked(padding)().reset()[0][None]
    check_stacks(observations, 1)
    check_stacks(observations, 3, pad)
    other: Pad = "zero" if pad == "first" else "first"
    with pytest.raises(InvalidConfig, match="or another frame_pad"):
        check_stacks(observations, 3, other)
