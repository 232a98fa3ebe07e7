"""Checkpoints on disk: whole, few, and good to go on from exactly."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_rig import dqn_config, make_dqn, make_on_policy, make_pqn, ppo_config, pqn_config
from torch import Tensor

from services.common.errors import DataCorrupted, StorageFull
from services.common.replay import MemoryReplay, ReplaySchema, Sampling
from services.common.replay.fragments import assemble
from services.trainer.algorithms.actor_critic import ActorCriticLearner, RolloutBatch
from services.trainer.algorithms.dqn import DQNLearner
from services.trainer.algorithms.pqn import QRollout
from services.trainer.checkpoint import Checkpoint, CheckpointStore
from services.trainer.divergence import TrainingDiverged
from services.trainer.experience import Experience, from_transitions
from services.trainer.kept import CheckpointFolder, best


def save(store: CheckpointStore, env_steps: int) -> None:
    store.save(Checkpoint(env_steps, {"weight": torch.tensor([float(env_steps)])}, {"n": 1}))


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    generator.random(3)
    state = {"generator": generator.bit_generator.state, "judge": {"published": None}}
    tensors = {"a.b": torch.arange(6.0).reshape(2, 3).T, "steps": torch.tensor(7)}
    CheckpointStore(tmp_path).save(Checkpoint(42, tensors, state))
    loaded = CheckpointStore(tmp_path).load_newest()
    assert loaded is not None
    assert (loaded.env_steps, loaded.state) == (42, state)
    assert_equal(loaded.tensors, tensors)
    other = np.random.default_rng(0)
    other.bit_generator.state = loaded.state["generator"]
    assert other.random() == generator.random()


def test_without_any_there_is_none(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none").load_newest() is None


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for env_steps in (5, 90, 1000):
        save(store, env_steps)
    assert store.steps() == [90, 1000]
    newest = store.load_newest()
    assert newest is not None
    assert newest.tensors["weight"].item() == 1000


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for env_steps, score in ((10, -5.0), (20, 7.0), (30, None), (40, 7.0), (50, 3.0), (60, None)):
        store.save(Checkpoint(env_steps, {}, {}, score=score))
    assert store.steps() == [20, 50, 60]
    assert (store.is_best(7.0), store.is_best(7.1)) == (False, True)
    store.save(Checkpoint(70, {}, {}, score=8.0))
    assert store.steps() == [60, 70]
    store.save(Checkpoint(80, {}, {}))
    assert store.steps() == [70, 80]
    kept = CheckpointFolder(tmp_path).kept()
    assert [(one.env_steps, one.score) for one in kept] == [(70, 8.0), (80, None)]
    assert best(kept) is kept[0]
    sizes = [file.stat().st_size for file in (tmp_path / "000000000070").iterdir()]
    assert kept[0].bytes == sum(sizes)


def test_the_same_step_is_saved_once(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.save(Checkpoint(5, {"weight": torch.tensor([5.0])}, {}))
    assert not store.save(Checkpoint(5, {"weight": torch.tensor([6.0])}, {}))


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 5)
    left, real = [fails], os.fsync

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageFull, match=f"no space left for {tmp_path}/0+6; free some"):
        save(store, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["000000000005"]
    newest = store.load_newest()
    assert newest is not None
    assert newest.env_steps == 5
    save(store, 6)
    assert store.steps() == [5, 6]


def test_a_damaged_one_does_not_stand_in_the_way_of_new_ones(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 5)
    (tmp_path / "000000000005" / "state.json").write_bytes(b"{")
    assert [one.score for one in CheckpointFolder(tmp_path).kept()] == [None]
    save(store, 6)
    assert store.steps() == [6]


def test_what_a_crash_left_half_written_is_not_seen(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 5)
    torn = tmp_path / ".publishing-torn"
    torn.mkdir()
    (torn / "tensors.safetensors").write_bytes(b"half")
    assert store.steps() == [5]
    save(store, 6)
    assert store.steps() == [5, 6]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("content", [b"", b"\xff{", None])
def test_a_damaged_checkpoint_is_said_to_be(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 5)
    path = tmp_path / "000000000005" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataCorrupted, match=f"checkpoint {tmp_path}/000000000005"):
        store.load_newest()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path, value: float) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 5)
    with pytest.raises(TrainingDiverged, match=r"weight is no longer finite; .*: 5 env steps"):
        store.save(Checkpoint(6, {"weight": torch.tensor([1.0, value])}, {}))
    assert store.steps() == [5]


# --- going on from a checkpoint as if there had been none ------------------------


def assert_equal(one: object, two: object) -> None:
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def through(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they come back from disk."""
    CheckpointStore(folder).save(Checkpoint(1, tensors, {}))
    loaded = CheckpointStore(folder).load_newest()
    assert loaded is not None
    return dict(loaded.tensors)


def transitions(generator: np.random.Generator) -> Experience:
    schema = ReplaySchema.transitions((4,), "float32")
    rows, reached = schema.empty(32), schema.empty(32)
    for states in (rows, reached):
        states["observation"] = generator.normal(size=(32, 4))
    rows["action"] = generator.integers(2, size=32)
    rows["reward"] = generator.normal(size=32)
    rows["step"] = np.arange(32)
    replay = MemoryReplay(schema, 100, Sampling(generator, discount=0.9))
    replay.append(assemble(schema, rows, reached, np.zeros(32, dtype=np.int64)))
    return from_transitions(replay.sample(32))


@pytest.mark.parametrize(
    "changes",
    [
        {"target_update_period": 20},
        {"target_tau": 0.1, "target_update_period": 1},
        {"network": {"dueling": True, "quantiles": 5, "noisy": True}},
    ],
)
def test_dqn_goes_on_as_if_it_had_never_stopped(tmp_path: Path, changes: dict[str, Any]) -> None:
    config, generator = dqn_config("CartPole-v1", **changes), np.random.default_rng(0)
    learner = make_dqn(config, np.random.default_rng(1))
    for _ in range(25):
        learner.update(transitions(generator))
    noise = np.random.default_rng(9)
    resumed = _perturbed_dqn(make_dqn(config, noise))
    noise.bit_generator.state = learner._generator.bit_generator.state
    resumed.restore(through(tmp_path, learner.tensors()), learner.updates)
    for _ in range(20):  # past the next copy to the target network
        batch = transitions(generator)
        learner.update(batch)
        resumed.update(batch)
    assert_equal(learner.tensors(), resumed.tensors())
    assert resumed.updates == learner.updates == 45


def _perturbed_dqn(learner: DQNLearner) -> DQNLearner:
    learner.update(transitions(np.random.default_rng(9)))
    return learner


def q_rollout(generator: np.random.Generator) -> QRollout:
    ends = generator.random((2, 8, 4)) < 0.1
    return QRollout(
        observation=generator.normal(size=(9, 4, 4)).astype(np.float32),
        action=generator.integers(2, size=(8, 4)),
        reward=generator.normal(size=(8, 4)).astype(np.float32),
        terminated=ends[0],
        truncated=ends[1],
        live=generator.random((8, 4)) < 0.9,
    )


def test_pqn_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    config, generator = pqn_config("CartPole-v1"), np.random.default_rng(0)
    learner, resumed = make_pqn(config), make_pqn(config)
    for _ in range(3):
        learner.update(q_rollout(generator), np.random.default_rng(1))
    resumed.update(q_rollout(generator), np.random.default_rng(9))
    resumed.restore(through(tmp_path, learner.tensors()), learner.updates)
    batch = q_rollout(generator)
    for each in (learner, resumed):
        each.update(batch, np.random.default_rng(2))
    assert_equal(learner.tensors(), resumed.tensors())
    assert resumed.updates == learner.updates


def rollout(generator: np.random.Generator) -> RolloutBatch:
    return RolloutBatch(
        observation=generator.normal(size=(64, 4)).astype(np.float32),
        action=generator.integers(2, size=64),
        log_probability=np.full(64, np.log(0.5), np.float32),
        advantage=generator.normal(size=64).astype(np.float32),
        value_target=generator.normal(size=64).astype(np.float32),
    )


def test_ppo_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    config, generator = ppo_config("CartPole-v1"), np.random.default_rng(0)
    learner = make_on_policy(config)
    learner.update(rollout(generator), np.random.default_rng(1))
    resumed = _perturbed_ppo(make_on_policy(config))
    resumed.restore(through(tmp_path, learner.tensors()), learner.updates)
    batch = rollout(generator)
    for each in (learner, resumed):
        each.update(batch, np.random.default_rng(2))
    assert_equal(learner.tensors(), resumed.tensors())
    assert resumed.updates == learner.updates == 2


def _perturbed_ppo(learner: ActorCriticLearner) -> ActorCriticLearner:
    learner.update(rollout(np.random.default_rng(9)), np.random.default_rng(9))
    return learner
