"""The trainer as a real process: runs that finish, stop, crash, wait and go on."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer_process import ENDLESS, SHORT, TINY, TrainerProcess, is_checkpoint, is_message

from services.common.embedded_redis import EmbeddedRedis
from services.common.ports import free_port
from services.common.registry import PolicyRegistry
from services.trainer.config import load_preset, parse, preset_names
from tutelage.v1 import training_pb2 as pb

Start = Callable[..., TrainerProcess]


@pytest.fixture
def start(tmp_path: Path, shared_valkey: EmbeddedRedis) -> Iterator[Start]:
    """Starts the service on the test's own folder; all are stopped at its end."""
    started: list[TrainerProcess] = []

    def starter(redis_url: str = shared_valkey.url, **settings: object) -> TrainerProcess:
        started.append(TrainerProcess(tmp_path, redis_url, **settings))
        return started[-1]

    yield starter
    for process in started:
        process.stop()


@pytest.fixture(scope="module")
def trainer(
    tmp_path_factory: pytest.TempPathFactory, shared_valkey: EmbeddedRedis
) -> Iterator[TrainerProcess]:
    """One service for tests that need no other; it works on two runs at once."""
    folder = tmp_path_factory.mktemp("trainer")
    process = TrainerProcess(folder, shared_valkey.url, parallel_runs=2)
    yield process
    process.stop()


def is_running(event: pb.RunEvent) -> bool:
    return event.status_changed.status == pb.RUN_STATUS_RUNNING


def test_a_run_trains_evaluates_and_publishes(trainer: TrainerProcess) -> None:
    run_id = trainer.start(SHORT, request_id="once")
    assert trainer.start(SHORT, request_id="once") == run_id
    events = list(trainer.events(run_id, follow=True))
    run = trainer.run(run_id)
    assert (run.status, run.error) == (pb.RUN_STATUS_SUCCEEDED, "")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    kinds = {event.WhichOneof("event") for event in events}
    assert kinds >= {
        "status_changed",
        "progress",
        "episode_ended",
        "policy_evaluated",
        "policy_published",
        "checkpoint_saved",
    }
    assert run.published_versions
    assert run.checkpoint_env_steps >= 200
    assert run.ended_at.seconds
    registry = PolicyRegistry(str(trainer.folder / "policies"))
    assert registry.aliases("cartpole")["stable"].version in run.published_versions
    published = registry.load("cartpole", run.published_versions[-1])
    assert (published.manifest.run_id, published.manifest.algorithm) == (run_id, "dqn")
    # What has been read is not sent again, and a run that succeeded is over.
    assert [e.sequence for e in trainer.events(run_id, after=len(events) - 1)] == [len(events)]
    with pytest.raises(grpc.RpcError, match="succeeded; only stopped and failed runs"):
        trainer.stub.ResumeRun(pb.ResumeRunRequest(run_id=run_id))
    with pytest.raises(grpc.RpcError, match="is not at work, it has ended"):
        trainer.stop_run(run_id)


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("ghost", {}, "no preset 'ghost'"),
        ("cartpole-dqn", {"dqn.colour": "red"}, "unknown key 'dqn.colour'"),
        ("cartpole-dqn", {"learning_rate": "1"}, "nearest is 'dqn.learning_rate'"),
        ("cartpole-dqn", {"dqn.learning_rate": "fast"}, "dqn.learning_rate"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(
    trainer: TrainerProcess, preset: str, overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        trainer.start(overrides, preset)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()


def test_each_preset_is_listed_with_all_that_can_be_set(trainer: TrainerProcess) -> None:
    presets = {p.name: p for p in trainer.stub.ListPresets(pb.ListPresetsRequest()).presets}
    assert list(presets) == preset_names()
    dqn = presets["cartpole-dqn"]
    assert (dqn.algorithm, dqn.policy) == ("dqn", "cartpole")
    assert (dqn.environment, dqn.env_steps) == ("CartPole-v1", 60_000)
    assert "double DQN" in dqn.description
    assert parse(yaml.safe_load(dqn.config_yaml), "test") == load_preset("cartpole-dqn")


def test_no_more_runs_are_listed_than_asked_for(trainer: TrainerProcess) -> None:
    ids = [trainer.stop_run(trainer.start(ENDLESS)).run_id for _ in range(2)]
    assert [run.run_id for run in trainer.stub.ListRuns(pb.ListRunsRequest(limit=1)).runs] == ids[
        1:
    ]
    with pytest.raises(grpc.RpcError, match="limit -1") as refused:
        trainer.stub.ListRuns(pb.ListRunsRequest(limit=-1))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_run_is_not_found(trainer: TrainerProcess) -> None:
    for call in (trainer.run, trainer.stop_run, lambda run_id: list(trainer.events(run_id))):
        with pytest.raises(grpc.RpcError, match="no run 'ghost'") as refused:
            call("ghost")
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_run_fails_with_its_reason(trainer: TrainerProcess) -> None:
    run = trainer.wait_until_ended(trainer.start(SHORT | {"environment.id": "Ghost-v0"}))
    assert run.status == pb.RUN_STATUS_FAILED
    assert "environment.id" in run.error


def test_a_diverging_run_fails_and_names_its_last_good_checkpoint(
    trainer: TrainerProcess,
) -> None:
    wild = {
        "dqn.learning_rate": "1e30",
        "dqn.env_steps_per_update": "1",
        "replay.min_replay_size": "300",
        "checkpoint.period": "16",
    }
    run = trainer.wait_until_ended(trainer.start(ENDLESS | wild))
    assert run.status == pb.RUN_STATUS_FAILED
    assert f"last good checkpoint: {run.checkpoint_env_steps} env steps" in run.error
    # Learning begins when Redis has 300 steps, which is known a chunk later: no checkpoint of
    # what had diverged is kept.
    assert 200 <= run.checkpoint_env_steps < 360


def test_a_stopped_run_goes_on_from_its_checkpoint(trainer: TrainerProcess) -> None:
    run_id = trainer.start(ENDLESS)
    trainer.wait_for_event(run_id, lambda event: event.progress.done > 200)
    stopped = trainer.stop_run(run_id)
    assert stopped.status == pb.RUN_STATUS_STOPPED
    at, events = stopped.checkpoint_env_steps, list(trainer.events(run_id))
    assert at > 200
    resumed = trainer.stub.ResumeRun(pb.ResumeRunRequest(run_id=run_id)).run
    assert resumed.status == pb.RUN_STATUS_QUEUED
    after = len(events)
    trainer.wait_for_event(run_id, is_message(f"resumed at {at} env steps"), after)
    progress = trainer.wait_for_event(run_id, lambda e: e.HasField("progress"), after)
    assert progress.progress.done > at
    again = trainer.stop_run(run_id)
    assert again.checkpoint_env_steps > at
    numbers = [e.episode_ended.episode for e in trainer.events(run_id) if e.episode_ended.episode]
    assert numbers == list(range(1, len(numbers) + 1))
    begun = [e.training_begun for e in trainer.events(run_id) if e.HasField("training_begun")]
    assert [begin.env_steps for begin in begun] == [0, at]
    reader = EventAccumulator(str(trainer.folder / "tensorboard" / run_id))
    reader.Reload()
    steps = [event.step for event in reader.Scalars("run/env_steps_per_second")]
    assert steps == sorted(set(steps))
    assert steps[0] <= at < steps[-1]


def test_ppo_stops_and_goes_on_too(trainer: TrainerProcess) -> None:
    endless = {"ppo.total_env_steps": "100000000", "evaluation.period": "100000000"}
    run_id = trainer.start(endless, preset="cartpole-ppo")
    trainer.wait_for_event(run_id, lambda event: event.progress.done > 0)
    at = trainer.stop_run(run_id).checkpoint_env_steps
    assert at > 0
    trainer.stub.ResumeRun(pb.ResumeRunRequest(run_id=run_id))
    trainer.wait_for_event(run_id, is_message(f"resumed at {at} env steps"))
    assert trainer.stop_run(run_id).status == pb.RUN_STATUS_STOPPED


def test_a_run_can_be_stopped_before_it_listens(start: Start) -> None:
    trainer = start()
    first, second = trainer.start(ENDLESS), trainer.start(ENDLESS)
    # One waits its turn, the other's process is being made.
    assert trainer.stop_run(second).status == pb.RUN_STATUS_STOPPED
    while not trainer.process.children():
        pass
    assert trainer.stop_run(first).status == pb.RUN_STATUS_STOPPED
    assert trainer.run(second).status == pb.RUN_STATUS_STOPPED
    assert "Traceback" not in trainer.log


def test_who_follows_a_run_that_waits_hears_its_place(start: Start) -> None:
    trainer = start()
    first, second, third = (trainer.start(ENDLESS) for _ in range(3))
    trainer.wait_for_event(first, is_running)
    events = trainer.events(third, follow=True)
    assert next(events).queue_moved.queue_place == 2
    trainer.stop_run(second)
    moved = next(events)
    assert (moved.queue_moved.queue_place, moved.sequence) == (1, 0)
    assert trainer.stop_run(third).status == pb.RUN_STATUS_STOPPED
    assert [event.status_changed.status for event in events] == [pb.RUN_STATUS_STOPPED]


def test_a_killed_run_is_taken_up_again(trainer: TrainerProcess) -> None:
    run_id = trainer.start(ENDLESS)
    saved = trainer.wait_for_event(run_id, is_checkpoint)
    trainer.worker().kill()
    died = trainer.wait_for_event(
        run_id, lambda e: "its process died (signal 9)" in e.status_changed.reason, saved.sequence
    )
    assert died.status_changed.status == pb.RUN_STATUS_QUEUED
    resumed = trainer.wait_for_event(run_id, is_message("resumed at"), died.sequence)
    past = [e for e in trainer.events(run_id) if e.sequence < died.sequence]
    newest = max(event.checkpoint_saved.env_steps for event in past)
    # Its last words may be missing: a checkpoint is on disk before it is spoken of.
    assert int(resumed.message.text.split()[2]) >= newest
    trainer.stop_run(run_id)


@pytest.mark.parametrize("end", [TrainerProcess.stop, TrainerProcess.kill])
def test_a_run_survives_its_service(start: Start, end: Callable[[TrainerProcess], object]) -> None:
    trainer = start()
    run_id = trainer.start(ENDLESS)
    trainer.wait_for_event(run_id, is_checkpoint)
    worker = trainer.worker()
    end(trainer)
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running()
    again = start()
    again.wait_for_event(run_id, is_message("resumed at"))
    assert again.stop_run(run_id).status == pb.RUN_STATUS_STOPPED


def test_a_run_waits_for_redis_says_so_and_goes_on(start: Start, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "valkey") as valkey:
        trainer = start(redis_url=valkey.url)
        run_id = trainer.start(TINY | {"dqn.total_env_steps": "5000", "evaluation.period": "9999"})
        trainer.wait_for_event(run_id, lambda event: event.progress.done > 0)
        valkey.kill()
        waiting = trainer.wait_for_event(run_id, is_message("nothing is lost, trying again"))
        assert waiting.message.level == "warning"
        assert "Redis does not answer" in waiting.message.text
        # It still hears that it should stop, and saves what it has.
        stopped = trainer.stop_run(run_id)
        assert stopped.status == pb.RUN_STATUS_STOPPED
        assert stopped.checkpoint_env_steps > 0
        # Resumed with nobody there it waits again, and finishes once somebody is.
        after = len(list(trainer.events(run_id)))
        trainer.stub.ResumeRun(pb.ResumeRunRequest(run_id=run_id))
        trainer.wait_for_event(run_id, is_message("trying again"), after)
        valkey.start()
        run = trainer.wait_until_ended(run_id)
        assert (run.status, run.error) == (pb.RUN_STATUS_SUCCEEDED, "")


def test_a_taken_port_is_one_clear_line(trainer: TrainerProcess, start: Start) -> None:
    with pytest.raises(AssertionError) as ended:
        start(trainer_address=trainer.address)
    assert f"trainer: cannot listen on {trainer.address}" in str(ended.value)
    assert "Traceback" not in str(ended.value)


def test_runs_at_work_are_told_to_prometheus_and_no_others(start: Start) -> None:
    port = free_port()
    trainer = start(trainer_metrics_port=port)
    run_id = trainer.start(ENDLESS)
    trainer.wait_for_event(run_id, lambda event: "replay_ratio" in event.metrics.values)
    trainer.wait_for_event(run_id, lambda event: event.progress.epsilon > 0)
    told = {}
    # Its worker writes, and the service looks, by themselves; the first progress has no rate.
    while "loss" not in told or not told["rate"]:
        told = samples_of(port, run=run_id, algorithm="dqn")
    assert told["done"] > 0
    assert told["rate"] > 0
    assert 0 < told["epsilon"] <= 1
    assert 3 < told["replay_ratio"] <= 4  # batches of 64, one for 16 steps
    trainer.stop_run(run_id)
    while samples_of(port, run=run_id):
        pass


def test_replays_of_runs_are_told_to_prometheus(start: Start, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "own") as valkey:
        port = free_port()
        trainer = start(valkey.url, trainer_metrics_port=port)
        run_id = trainer.start(SHORT)
        assert trainer.wait_until_ended(run_id).status == pb.RUN_STATUS_SUCCEEDED
        told = samples_of(port, replay=run_id)
    steps = int(SHORT["dqn.total_env_steps"])
    updates = (told["sampled_rows_total"]) / 64
    assert steps <= told["inserted_steps_total"] < steps + 32
    assert 0 < updates <= told["inserted_steps_total"] / 16
    assert updates == int(updates)  # every batch was counted
    assert told["sample_ratio"] == told["sampled_rows_total"] / told["inserted_steps_total"]
    assert told["rows"] == told["appended_rows_total"] > told["inserted_steps_total"]
    assert told["bytes"] > 48 * told["rows"]
    assert told["mirror_lag_rows"] == told["waits_total"] == 0
    assert told["producers"] == 1
    assert told["oldest_age_seconds"] >= 0
    assert told["append_rows_per_second"] > 0


def samples_of(port: int, **labels: str) -> dict[str, float]:
    """What is said of one replay or run, without the prefix of the names."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    found = [sample for family in families for sample in family.samples]
    return {
        sample.name.removeprefix("tutelage_replay_").removeprefix("tutelage_run_"): sample.value
        for sample in found
        if labels.items() <= sample.labels.items()
    }
