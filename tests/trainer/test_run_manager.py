"""The queue in one process, with workers that are stand-ins; see test_trainer_service too."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.common.errors import DataCorrupted, InvalidConfig, NotFound, PreconditionFailed
from services.common.registry import PolicyRegistry
from services.trainer.config import load_preset
from services.trainer.resources import Resources
from services.trainer.runs import manager as managers
from services.trainer.runs import workers
from services.trainer.runs.execute import execute
from services.trainer.runs.history import HistoryWriter
from services.trainer.runs.manager import RunManager
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunFolder, RunStore, RunView
from tutelage.v1 import training_pb2 as pb

Become = Callable[[str], None]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path)


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Become:
    """Says what program workers are, in place of training."""

    def choose(program: str) -> None:
        monkeypatch.setattr(workers, "leashed", lambda command: [sys.executable, "-c", program])

    return choose


@pytest.fixture
async def manager(store: RunStore, become: Become) -> AsyncIterator[RunManager]:
    """A manager at work."""
    become("import time; time.sleep(600)")
    manager = RunManager(store)
    working = asyncio.create_task(manager.work())
    yield manager
    await manager.close(5)
    await working


def queue(manager: RunManager, request_id: str = "") -> str:
    return manager.start("cartpole-dqn", {}, None, request_id).run_id


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - asks processes
        await asyncio.sleep(0.02)


async def test_a_worker_that_dies_at_once_is_tried_three_times(
    manager: RunManager, become: Become
) -> None:
    become("raise SystemExit(3)")
    run_id = queue(manager)
    await until(lambda: manager.get(run_id).status == pb.RUN_STATUS_FAILED)
    assert manager.get(run_id).error == (
        "its process died 3 times without a new checkpoint (exit code 3)"
    )


async def test_runs_take_turns(manager: RunManager) -> None:
    first, second = queue(manager), queue(manager)
    await until(lambda: bool(manager._workers))
    await asyncio.sleep(3 * managers.POLL_S)
    assert list(manager._workers) == [first]
    assert manager.get(second).status == pb.RUN_STATUS_QUEUED
    assert [run.run_id for run in manager.newest_first()] == [second, first]
    assert (await manager.stop(first)).status == pb.RUN_STATUS_STOPPED
    await until(lambda: list(manager._workers) == [second])


def places(manager: RunManager) -> dict[str, int]:
    return {run.run_id: run.queue_place for run in manager.newest_first()}


async def test_runs_that_wait_are_told_their_place(manager: RunManager) -> None:
    first, second, third = (queue(manager) for _ in range(3))
    assert places(manager) == {first: 0, second: 1, third: 2}
    assert manager.get(third).queue_place == 2
    await manager.stop(second)
    assert places(manager) == {first: 0, second: 0, third: 1}
    manager.resume(second)
    assert places(manager) == {first: 0, third: 1, second: 2}  # behind those that waited
    await until(lambda: list(manager._workers) == [first])
    assert places(manager) == {first: 0, third: 1, second: 2}
    await manager.stop(first)
    await until(lambda: list(manager._workers) == [third])
    assert places(manager) == {third: 0, second: 1, first: 0}


async def test_several_are_at_work_when_there_is_room(store: RunStore, become: Become) -> None:
    become("import time; time.sleep(600)")
    manager = RunManager(store, parallel_runs=2)
    working = asyncio.create_task(manager.work())
    ids = [queue(manager) for _ in range(3)]
    assert places(manager) == dict(zip(ids, (0, 0, 1), strict=True))
    await until(lambda: list(manager._workers) == ids[:2])
    await manager.close(5)
    await working


async def test_the_queue_outlives_the_trainer(
    manager: RunManager, store: RunStore, tmp_path: Path
) -> None:
    first, second, third = (queue(manager) for _ in range(3))
    await manager.stop(second)
    manager.resume(second)
    await until(lambda: list(manager._workers) == [first])
    await manager.close(5)
    # As a run says that was at work when its trainer was killed.
    history = HistoryWriter(store.get(first).history)
    RunSession(history).status(pb.RUN_STATUS_RUNNING)
    history.close()
    again = RunManager(RunStore(tmp_path))
    assert places(again) == {first: 0, third: 0, second: 1}
    again._fill()
    assert list(again._workers) == [first]
    assert again.get(first).status == pb.RUN_STATUS_QUEUED
    assert places(again) == {first: 0, third: 1, second: 2}
    await again.close(5)


async def test_a_run_that_ended_while_it_was_looked_at_is_not_begun_again(
    store: RunStore, become: Become
) -> None:
    become("import time; time.sleep(600)")
    manager = RunManager(store)
    folder = store.create("cartpole-dqn", load_preset("cartpole-dqn"))
    history = HistoryWriter(folder.history)
    session = RunSession(history)
    session.status(pb.RUN_STATUS_RUNNING)
    views = manager._all()
    session.status(pb.RUN_STATUS_SUCCEEDED)
    history.close()
    manager._take_up_orphans(views)
    assert manager.get(folder.run_id).status == pb.RUN_STATUS_SUCCEEDED


def test_histories_of_runs_that_have_ended_are_left_alone(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = RunManager(store, parallel_runs=0)
    ended, waiting = queue(manager), queue(manager)
    history = HistoryWriter(store.get(ended).history)
    RunSession(history).status(pb.RUN_STATUS_SUCCEEDED)
    history.close()
    manager._all()
    looked_at = []
    refresh = RunView.refresh

    def watched(view: RunView) -> pb.Run:
        looked_at.append(view.run.run_id)
        return refresh(view)

    monkeypatch.setattr(RunView, "refresh", watched)
    manager._fill()
    assert looked_at == [waiting]


def test_no_more_runs_are_listed_than_a_reply_takes(store: RunStore) -> None:
    manager = RunManager(store)
    ids = [queue(manager) for _ in range(4)]
    assert [run.run_id for run in manager.newest_first(limit=2)] == ids[:1:-1]


def test_a_run_whose_folder_was_removed_is_forgotten(store: RunStore) -> None:
    manager = RunManager(store)
    gone, kept = queue(manager), queue(manager)
    shutil.rmtree(store.get(gone).path)
    assert [run.run_id for run in manager.newest_first()] == [kept]


async def test_a_run_at_work_elsewhere_is_left_alone(manager: RunManager, store: RunStore) -> None:
    folder = store.create("cartpole-dqn", load_preset("cartpole-dqn"))
    with folder.locked():
        await asyncio.sleep(3 * managers.POLL_S)
        assert not manager._workers
        with pytest.raises(PreconditionFailed, match="at work in another process"):
            await manager.stop(folder.run_id)
    await until(lambda: folder.run_id in manager._workers)


async def test_a_run_that_was_stopped_can_be_queued_again(manager: RunManager) -> None:
    run_id = queue(manager)
    with pytest.raises(PreconditionFailed, match="is queued; only stopped and failed runs"):
        manager.resume(run_id)
    await manager.stop(run_id)
    assert manager.resume(run_id).status == pb.RUN_STATUS_QUEUED


def test_a_token_gives_the_same_run_also_after_a_restart(store: RunStore, tmp_path: Path) -> None:
    run_id = queue(RunManager(store), request_id="token")
    assert queue(RunManager(RunStore(tmp_path)), request_id="token") == run_id
    assert queue(RunManager(store)) != run_id


@pytest.mark.parametrize("run_id", ["ghost", "", "../up", "."])
def test_unknown_runs_are_not_found(store: RunStore, run_id: str) -> None:
    with pytest.raises(NotFound, match="no run"):
        RunManager(store).get(run_id)


def test_what_cannot_be_run_leaves_no_folder(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig):
        RunManager(store).start("cartpole-dqn", {"colour": "red"}, None, "")
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_release_is_still_seen_but_does_not_go_on(
    store: RunStore, tmp_path: Path
) -> None:
    strange = store.create("cartpole-dqn", load_preset("cartpole-dqn"))
    text = (strange.path / "run.json").read_text()
    (strange.path / "run.json").write_text(text.replace('"policy":', '"colour": 1, "policy":'))
    manager = RunManager(store)
    known = queue(manager)
    assert [run.run_id for run in manager.newest_first()] == [known, strange.run_id]
    seen = manager.get(strange.run_id)
    assert (seen.policy, seen.algorithm) == ("cartpole", "dqn")
    assert "colour: 1" in seen.config_yaml
    resources = Resources(
        redis_url="redis://127.0.0.1:1",
        registry=PolicyRegistry(str(tmp_path / "policies")),
        feedback_address="127.0.0.1:1",
        reward_models=tmp_path / "reward_models",
    )
    assert execute(strange, resources) == pb.RUN_STATUS_FAILED
    assert "unknown key 'colour'" in manager.get(strange.run_id).error


def test_a_damaged_run_does_not_hold_up_the_others(store: RunStore) -> None:
    manager = RunManager(store)
    damaged, whole = queue(manager), queue(manager)
    store.get(damaged).history.write_text("not an event\n")
    assert [run.run_id for run in manager.newest_first()] == [whole]
    with pytest.raises(DataCorrupted, match=f"{damaged}/history.jsonl at byte 0"):
        manager.get(damaged)


# --- a run's state follows from its history ----------------------------------------


@pytest.fixture
def folder(store: RunStore) -> RunFolder:
    return store.create("cartpole-dqn", load_preset("cartpole-dqn", seed=7))


def test_a_new_run_is_queued_and_says_what_it_is(folder: RunFolder) -> None:
    run = RunView(folder).refresh()
    assert (run.status, run.preset, run.algorithm) == (
        pb.RUN_STATUS_QUEUED,
        "cartpole-dqn",
        "dqn",
    )
    assert (run.policy, run.seed) == ("cartpole", 7)
    assert "learning_rate" in run.config_yaml
    assert run.created_at.seconds


def test_what_a_session_says_becomes_the_runs_state(folder: RunFolder) -> None:
    view = RunView(folder)
    history = HistoryWriter(folder.history)
    session = RunSession(history)
    session.status(pb.RUN_STATUS_RUNNING)
    session.episode(10, 10.0, 10)
    session.episode(30, 20.0, 20)
    session.progress("training", 30, 100, "env steps", now=True)
    session.checkpoint_saved(30)
    session.published("cartpole", 1, "stable", "0" * 64)
    session.published("cartpole", 2, "", "1" * 64)
    run = view.refresh()
    assert run.status == pb.RUN_STATUS_RUNNING
    assert (run.progress.done, run.progress.total, run.progress.episodes) == (30, 100, 2)
    assert run.progress.mean_return == 15.0
    assert run.checkpoint_env_steps == 30
    assert list(run.published_versions) == [1, 2]
    assert not run.HasField("ended_at")
    session.status(pb.RUN_STATUS_FAILED, "the disk is full")
    history.close()
    run = view.refresh()
    assert (run.status, run.error) == (pb.RUN_STATUS_FAILED, "the disk is full")
    assert run.HasField("ended_at")
    assert view.attempts == 1


def test_a_run_that_goes_on_has_no_error_and_no_end(folder: RunFolder) -> None:
    history = HistoryWriter(folder.history)
    session = RunSession(history)
    for status, reason in (
        (pb.RUN_STATUS_RUNNING, ""),
        (pb.RUN_STATUS_FAILED, "the disk is full"),
        (pb.RUN_STATUS_QUEUED, ""),
        (pb.RUN_STATUS_RUNNING, ""),
    ):
        session.status(status, reason)
    history.close()
    view = RunView(folder)
    run = view.refresh()
    assert (run.status, run.error, run.HasField("ended_at")) == (
        pb.RUN_STATUS_RUNNING,
        "",
        False,
    )
    assert view.attempts == 2


def test_progress_and_metrics_are_not_written_at_every_step(folder: RunFolder) -> None:
    events: list[pb.RunEvent] = []
    history = HistoryWriter(folder.history)
    session = RunSession(history, events.append)
    for step in range(1000):
        session.progress("training", step, 1000, "env steps")
        session.metrics(step, {"loss": float(step)})
    history.close()
    kinds = [event.WhichOneof("event") for event in events]
    assert 1 <= kinds.count("progress") < 100
    assert 1 <= kinds.count("metrics") < 100
