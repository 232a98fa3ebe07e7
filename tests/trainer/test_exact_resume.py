"""A run that was killed and resumed ends as if it had not been: bit for bit."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import interrupted_environments
import numpy as np
import pytest
import safetensors.numpy
from interrupted_environments import ARMED, REACHED, Crash
from trainer_process import TrainerProcess

from services.common.embedded_redis import EmbeddedRedis
from services.common.errors import InvalidConfig
from services.common.registry import PolicyRegistry
from services.trainer.config import load_preset
from services.trainer.kept import CheckpointFolder
from services.trainer.resources import Resources
from services.trainer.runs.execute import execute
from services.trainer.runs.history import HistoryReader
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunFolder, RunStore
from tutelage.v1 import training_pb2 as pb

Arrays = dict[str, np.ndarray[Any, Any]]
COMMON = {
    "deterministic": "true",
    "environment.id": "interrupted_environments:Interrupted-v0",
    "environment.num_envs": "4",
    "network.hidden": "[16, 16]",
    "evaluation.period": "400",
    "evaluation.episodes": "2",
    "evaluation.goal_return": "null",
    "checkpoint.period": "500",
}
# The ring is full when the run is killed, and what was in it at the checkpoint half overwritten.
REPLAY = {"replay.min_replay_size": "100", "replay.capacity": "600"}
DQN = (
    COMMON
    | REPLAY
    | {
        "dqn.total_env_steps": "1500",
        "dqn.env_steps_per_update": "4",
        "dqn.n_step": "3",
        "dqn.priorities": "{}",
        "dqn.epsilon.repeat": "3",
        "network.dueling": "true",
        "network.noisy": "true",
    }
)
PPO = COMMON | {
    "ppo.total_env_steps": "1500",
    "ppo.rollout_steps": "24",
    "network.normalise_observations": "true",
    "ppo.normalise_rewards": "true",
}
SAC = (
    COMMON
    | REPLAY
    | {
        "sac.total_env_steps": "1500",
        "sac.env_steps_per_update": "8",
        "sac.noise_hold": "4",
    }
)
RESUMED = re.compile(r"resumed at (\d+) env steps, exactly as it was then")
AT = 300  # steps of one environment, in the middle of a chunk
KILLED = {
    "dqn": ("cartpole-dqn", "CartPole-v1", DQN),
    "ppo": ("cartpole-ppo", "CartPole-v1", PPO),
    "sac": ("pendulum-sac", "Pendulum-v1", SAC),
}


@pytest.fixture(scope="module")
def trainer(
    tmp_path_factory: pytest.TempPathFactory, shared_valkey: EmbeddedRedis
) -> Iterator[TrainerProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(interrupted_environments.__file__).parent), ":")
        process = TrainerProcess(tmp_path_factory.mktemp("killed"), shared_valkey.url)
    yield process
    process.stop()


def stopping(of: str, folder: Path, at: int = AT, *, waits: bool = True) -> dict[str, str]:
    """Settings of an environment that comes to a stop before its step `at`."""
    (folder / ARMED).touch()
    kwargs = {"of": of, "folder": str(folder), "at": at, "waits": waits}
    return {"environment.kwargs": json.dumps(kwargs)}


def never_stopping(of: str) -> dict[str, str]:
    return {"environment.kwargs": json.dumps({"of": of, "folder": "/", "at": 0})}


def run_through(preset: str, overrides: dict[str, str], resources: Resources) -> RunFolder:
    """A run that nothing happens to, with a policy repository of its own."""
    alone = replace(resources, registry=PolicyRegistry(f"{resources.registry.url}-alone"))
    folder = RunStore(resources.reward_models / "runs").create(
        preset, load_preset(preset, overrides)
    )
    assert execute(folder, alone) == pb.RUN_STATUS_SUCCEEDED
    return folder


def last_checkpoint(folder: RunFolder) -> tuple[Arrays, Arrays, dict[str, Any]]:
    """What is learnt, what is under way, and the rest, but not what differs by a run's name."""
    kept = CheckpointFolder(folder.checkpoints)
    path = folder.checkpoints / f"{kept.steps()[-1]:012d}"
    tensors = safetensors.numpy.load_file(path / "tensors.safetensors")
    arrays = safetensors.numpy.load_file(path / "arrays.safetensors")
    for name in ("episode_ids", "next_episode", *(f"before.{i}" for i in range(9))):
        arrays.pop(f"collector.{name}", None)
    if "replay.0.at" in arrays:
        arrays["replay.0.at"] = arrays["replay.0.at"][1:]  # when it was made
    return tensors, arrays, json.loads((path / "state.json").read_text())


def happened(folder: RunFolder) -> dict[str, list[Any]]:
    """What the history says of episodes, evaluations and versions; when the run went on from a
    checkpoint, what it had told of later steps is void."""
    events = list(HistoryReader(folder.history).read())
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    found: dict[str, list[Any]] = {"episode_ended": [], "policy_evaluated": []}
    for event in events:
        kind = event.WhichOneof("event")
        if kind in found:
            found[kind].append(getattr(event, kind))
        elif kind == "training_begun":
            last = event.training_begun.env_steps
            for name, told in found.items():
                found[name] = [one for one in told if last and one.env_steps <= last]
    published = [e.policy_published for e in events if e.HasField("policy_published")]
    return {**found, "policy_published": published}


def assert_same(one: RunFolder, two: RunFolder) -> None:
    for mine, its in zip(last_checkpoint(one), last_checkpoint(two), strict=True):
        assert mine.keys() == its.keys()
        for name, value in mine.items():
            if isinstance(value, np.ndarray):
                assert value.dtype == its[name].dtype, name
                assert value.tobytes() == its[name].tobytes(), name
            else:
                assert value == its[name], name
    assert happened(one) == happened(two)


@pytest.mark.parametrize("algorithm", KILLED)
def test_a_run_killed_between_checkpoints_ends_as_if_it_had_not_been(
    algorithm: str, trainer: TrainerProcess, tmp_path: Path, resources: Resources
) -> None:
    preset, of, overrides = KILLED[algorithm]
    overrides = overrides | {"policy": algorithm}
    run_id = trainer.start(overrides | stopping(of, tmp_path, AT), preset)
    while not (tmp_path / REACHED).exists():
        assert trainer.run(run_id).status in (pb.RUN_STATUS_QUEUED, pb.RUN_STATUS_RUNNING)
        time.sleep(0.02)
    folder = RunStore(trainer.folder / "runs").get(run_id)
    trainer.worker().kill()
    run = trainer.wait_until_ended(run_id)
    assert (run.status, run.error) == (pb.RUN_STATUS_SUCCEEDED, "")
    events = list(trainer.events(run_id))
    (died,) = [e for e in events if "(signal 9)" in e.status_changed.reason]
    (resumed,) = [e for e in events if RESUMED.match(e.message.text)]
    at = int(resumed.message.text.split()[2])
    # Steps of four environments, of which some were being reset now and then.
    assert 500 <= at < 0.9 * 4 * AT
    assert died.sequence < resumed.sequence
    reference = run_through(preset, overrides | never_stopping(of), resources)
    assert_same(folder, reference)
    published = PolicyRegistry(str(trainer.folder / "policies"))
    expected = happened(reference)["policy_published"]
    assert [published.manifest(algorithm, v).sha256 for v in published.versions(algorithm)] == [
        version.digest for version in expected
    ]
    assert len(expected) > 0


CRASHED = {
    "pqn": ("cartpole-pqn", "CartPole-v1", {"pqn.rollout_steps": "24"}),
    "a2c": ("cartpole-a2c", "CartPole-v1", {}),
    "td3": ("pendulum-td3", "Pendulum-v1", REPLAY | {"td3.env_steps_per_update": "8"}),
    "sac": ("cartpole-sac", "CartPole-v1", REPLAY | {"sac.env_steps_per_update": "8"}),
}


ONCE = {"evaluation.period": "100000"}  # at the end: to publish takes longer than all the rest


def settings_of(algorithm: str) -> tuple[str, str, dict[str, str]]:
    preset, of, own = CRASHED[algorithm]
    return preset, of, COMMON | ONCE | own | {f"{algorithm}.total_env_steps": "1500"}


@pytest.mark.parametrize("algorithm", ["pqn", "a2c", "td3", "sac"])
def test_others_go_on_exactly_too(algorithm: str, tmp_path: Path, resources: Resources) -> None:
    preset, of, overrides = settings_of(algorithm)
    folder = crashed(preset, overrides | stopping(of, tmp_path, waits=False), resources)
    assert CheckpointFolder(folder.checkpoints).steps()
    assert execute(folder, resources) == pb.RUN_STATUS_SUCCEEDED
    assert_same(folder, run_through(preset, overrides | never_stopping(of), resources))


def crashed(preset: str, overrides: dict[str, str], resources: Resources) -> RunFolder:
    """A run that was cut short, in this process: nothing it would do at its end is done."""
    folder = RunStore(resources.reward_models / "runs").create(
        preset, load_preset(preset, overrides)
    )
    with pytest.raises(Crash):
        execute(folder, resources)
    return folder


def test_a_table_goes_on_exactly_too(tmp_path: Path, resources: Resources) -> None:
    overrides = {
        "deterministic": "true",
        "environment.id": "Interrupted-v0",
        "tabular.total_env_steps": "1500",
        "evaluation.goal_return": "null",
        "checkpoint.period": "500",
        **ONCE,
    }
    lake = stopping("FrozenLake-v1", tmp_path, at=150, waits=False)
    folder = crashed("frozenlake-q", overrides | lake, resources)
    assert execute(folder, resources) == pb.RUN_STATUS_SUCCEEDED
    whole = overrides | never_stopping("FrozenLake-v1")
    assert_same(folder, run_through("frozenlake-q", whole, resources))


def test_before_the_first_checkpoint_it_begins_anew(tmp_path: Path, resources: Resources) -> None:
    preset, of, overrides = KILLED["dqn"]
    overrides = overrides | ONCE
    folder = crashed(preset, overrides | stopping(of, tmp_path, at=60, waits=False), resources)
    assert not CheckpointFolder(folder.checkpoints).steps()
    assert execute(folder, resources) == pb.RUN_STATUS_SUCCEEDED
    assert_same(folder, run_through(preset, overrides | never_stopping(of), resources))


def test_stopping_in_between_changes_nothing(tmp_path: Path, resources: Resources) -> None:
    preset, of, overrides = KILLED["sac"]
    overrides = overrides | ONCE | never_stopping(of)
    folder = RunStore(tmp_path / "runs").create(preset, load_preset(preset, overrides))
    sessions: list[RunSession] = []

    def stop_at(event: pb.RunEvent) -> None:
        if event.episode_ended.env_steps:
            sessions[-1].stop()

    stops = 0
    while True:
        status = execute(folder, resources, listener=stop_at, on_session=sessions.append)
        if status == pb.RUN_STATUS_SUCCEEDED:
            break
        stops += 1
    assert stops == 1  # of four episodes side by side; the others end later on
    assert_same(folder, run_through(preset, overrides, resources))


def test_what_cannot_be_repeated_is_refused() -> None:
    for preset, overrides in (
        ("cartpole-dqn", {"deterministic": "true", "replay.name": "shared"}),
        ("pendulum-sac", {"deterministic": "true", "replay.name": "shared"}),
        ("cartpole-rlhf", {"deterministic": "true"}),
    ):
        with pytest.raises(InvalidConfig, match="cannot be repeated"):
            load_preset(preset, overrides)
