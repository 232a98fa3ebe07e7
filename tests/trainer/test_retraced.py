"""Environments that come back to where they were."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from services.common.errors import InvalidConfig, PreconditionFailed
from services.trainer.arrays import like, plain
from services.trainer.config import DQNRun, parse
from services.trainer.environments import make_training
from services.trainer.retraced import RetracedEnvs, bring_back, where


def config(environment: str, deterministic: bool = True, **kwargs: Any) -> DQNRun:
    content = {
        "algorithm": "dqn",
        "policy": "test",
        "deterministic": deterministic,
        "environment": {"id": environment, "num_envs": 3, "kwargs": kwargs},
    }
    found = parse(content, "test")
    assert isinstance(found, DQNRun)
    return found


def play(envs: gym.vector.VectorEnv[Any, Any, Any], seed: int, steps: int) -> list[np.ndarray]:
    """Random actions; what is seen."""
    generator, seen = np.random.default_rng(seed), []
    space = envs.single_action_space
    for _ in range(steps):
        if isinstance(space, gym.spaces.Discrete):
            actions: Any = generator.integers(space.n, size=envs.num_envs)
        else:
            shape = (envs.num_envs, *space.shape)
            actions = generator.uniform(-1, 1, shape).astype(np.float32)
        observations, rewards, *_ = envs.step(actions)
        seen += [observations, rewards]
    return seen


class Parts(gym.ObservationWrapper[Any, Any, Any]):
    """CartPole that observes a Dict."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        half = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = gym.spaces.Dict({"position": half, "velocity": half})

    def observation(self, observation: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        return {"position": observation[::2], "velocity": observation[1::2]}


gym.register("Parts-v0", Parts)


@pytest.mark.parametrize(
    "environment",
    ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "LunarLander-v3", "Parts-v0"],
)
@pytest.mark.parametrize("steps", [0, 1, 230])
def test_they_go_on_as_if_nothing_had_happened(environment: str, steps: int) -> None:
    envs, again = make_training(config(environment)), make_training(config(environment))
    observations, _ = envs.reset(seed=5)
    for seen in play(envs, 1, steps)[::2]:
        observations = seen
    again.reset(seed=77)
    play(again, 3, 9)
    bring_back(again, where(envs), like(plain(observations), observations))
    for one, two in zip(play(envs, 2, 250), play(again, 2, 250), strict=True):
        assert one.tobytes() == two.tobytes()


def test_each_episode_and_each_environment_begins_in_another_way() -> None:
    envs = RetracedEnvs(lambda: gym.make("CartPole-v1", max_episode_steps=2), 4)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    starts = [*envs.reset(seed=0)[0]]
    for _ in range(5):
        seen = play(envs, 0, 3)
        starts += [*seen[-2]]
    assert len({start.tobytes() for start in starts}) == 24


class Forgetful(gym.Wrapper[Any, Any, Any, Any]):
    """Does not keep to its seed."""

    def reset(self, **kwargs: Any) -> Any:
        return self.env.reset()


def test_an_environment_that_comes_to_another_state_is_noticed() -> None:
    envs = RetracedEnvs(lambda: Forgetful(gym.make("CartPole-v1")), 2)
    observations, _ = envs.reset(seed=0)
    with pytest.raises(PreconditionFailed, match="does not come to the same state"):
        bring_back(envs, where(envs), observations)


def test_environments_of_other_runs_stay_as_they_are() -> None:
    plain = make_training(config("CartPole-v1", deterministic=False))
    assert not isinstance(plain, RetracedEnvs)
    with pytest.raises(TypeError, match="cannot be brought back"):
        where(plain)


def only_vectorised(num_envs: int, **kwargs: Any) -> gym.vector.VectorEnv[Any, Any, Any]:
    return gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * num_envs)


gym.register("OnlyVectorised-v0", vector_entry_point=only_vectorised)
gym.register(
    "DifferentAlone-v0",
    entry_point=lambda: gym.make("Pendulum-v1"),
    vector_entry_point=only_vectorised,
)


@pytest.mark.parametrize("environment", ["OnlyVectorised-v0", "DifferentAlone-v0"])
def test_what_cannot_be_stepped_alone_is_refused(environment: str) -> None:
    make_training(config(environment, deterministic=False)).close()
    with pytest.raises(InvalidConfig, match="vectorised implementation of its own"):
        make_training(config(environment))
