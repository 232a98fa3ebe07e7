"""A run whose losses are no longer numbers ends, and says from where it could go on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import interrupted_environments  # noqa: F401 - registers them
import pytest

from services.trainer.config import load_preset
from services.trainer.kept import CheckpointFolder
from services.trainer.resources import Resources
from services.trainer.runs.execute import execute
from services.trainer.runs.store import RunStore, RunView
from tutelage.v1 import training_pb2 as pb

NEVER = "100000000"
COMMON = {
    "environment.num_envs": "4",
    "evaluation.period": NEVER,
    "checkpoint.period": "50",
}
DQN = {"dqn.total_env_steps": NEVER, "replay.min_replay_size": "100"}
SAC = {"sac.total_env_steps": NEVER, "replay.min_replay_size": "100"}
TD3 = {"td3.total_env_steps": NEVER, "replay.min_replay_size": "100"}
PPO = {"ppo.total_env_steps": NEVER, "ppo.rollout_steps": "16"}


@pytest.mark.parametrize(
    ("preset", "of", "overrides"),
    [
        ("cartpole-dqn", "CartPole-v1", DQN),
        ("cartpole-dqn", "CartPole-v1", DQN | {"dqn.priorities": "{}"}),
        ("cartpole-dqn", "CartPole-v1", DQN | {"network.quantiles": "5"}),
        ("cartpole-pqn", "CartPole-v1", {"pqn.total_env_steps": NEVER}),
        ("cartpole-ppo", "CartPole-v1", PPO),
        ("pendulum-ppo", "Pendulum-v1", PPO | {"ppo.normalise_rewards": "true"}),
        ("cartpole-a2c", "CartPole-v1", {"a2c.total_env_steps": NEVER}),
        ("pendulum-sac", "Pendulum-v1", SAC),
        ("cartpole-sac", "CartPole-v1", SAC),
        ("pendulum-td3", "Pendulum-v1", TD3),
        ("frozenlake-q", "FrozenLake-v1", {"tabular.total_env_steps": NEVER}),
    ],
)
def test_rewards_that_are_no_numbers_end_the_run_which_names_its_last_good_checkpoint(
    preset: str, of: str, overrides: dict[str, str], tmp_path: Path, resources: Resources
) -> None:
    kwargs = json.dumps({"of": of, "after": 60})
    poison = {"environment.id": "Poisoned-v0", "environment.kwargs": kwargs}
    config = load_preset(preset, COMMON | poison | overrides)
    folder = RunStore(tmp_path / "runs").create(preset, config)
    assert execute(folder, resources) == pb.RUN_STATUS_FAILED
    run = RunView(folder).refresh()
    last = CheckpointFolder(folder.checkpoints).steps()[-1]
    assert re.search(rf"(became|finite).*; last good checkpoint: {last} env steps", run.error)
    assert 100 <= last < 800


@pytest.mark.parametrize(
    ("preset", "key", "value"),
    [
        ("pendulum-sac", "sac.learning_rate", "1e30"),
        ("pendulum-td3", "td3.learning_rate", "1e30"),
        ("pendulum-ppo", "ppo.learning_rate", "1e30"),
    ],
)
def test_no_environment_has_to_act_on_what_is_no_number(
    preset: str, key: str, value: str, tmp_path: Path, resources: Resources
) -> None:
    config = load_preset(preset, COMMON | {key: value})
    folder = RunStore(tmp_path / "runs").create(preset, config)
    assert execute(folder, resources) == pb.RUN_STATUS_FAILED
    assert "last good checkpoint: " in RunView(folder).refresh().error
