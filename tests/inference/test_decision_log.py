"""The log of decisions: what its files hold, which decisions they hold, and what may go wrong."""

from __future__ import annotations

import errno
import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inference_process import InferenceProcess
from pending_call import PendingCall
from prometheus_client import REGISTRY
from recurrent_policies import GRU, gru_model
from tiny_policies import CARTPOLE, box_model, linear_model, publish

from services.common.action_space import Box
from services.common.embedded_redis import EmbeddedRedis
from services.common.ports import free_port
from services.common.registry import PolicyManifest, PolicyRegistry
from services.common.spec import Distribution
from services.inference.batching import Asked, Question
from services.inference.decision_log import DecisionLog, LogLimits
from services.inference.decision_rows import METADATA, is_sampled
from services.inference.distribution import Decisions
from services.inference.runner import PolicyRunner
from tutelage import Client

ARM = CARTPOLE.model_copy(
    update={
        "action": Box(shape=(2, 1), low=(-2, 0), high=(2, 10)),
        "distribution": Distribution.GAUSSIAN,
    }
)
ARM_WEIGHTS = np.array([[0, 0], [0, 0], [5, -5], [0, 1]], np.float32)


def files_of(folder: Path) -> list[Path]:
    """Whole ones; asserts that there are no parts of others."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    assert all(path.suffix == ".parquet" for path in found)
    return found


def read(folder: Path, policy: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in files_of(folder / policy)])


def metric(name: str, policy: str) -> float:
    return REGISTRY.get_sample_value(f"tutelage_inference_{name}_total", {"policy": policy}) or 0.0


def ask_in_every_way(client: Client, policy: str) -> None:
    state = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    discrete = policy == "cartpole"
    for i in range(8):
        client.act(state[i], policy=policy, session=f"robot-{i}", probabilities=i % 2 == 0)
        client.act(state[i], policy=policy)
        client.act(state[i], policy=policy, sample=True, temperature=2.0)
        client.act(state[i], policy=policy, sample=True, seed=100 + i, version=1)
    client.act_batch(state[8:], policy=policy, sample=True, seed=5)
    if discrete:
        client.act(state[0], policy=policy, mask=[True, False], epsilon=0.5, seed=3, value=True)
        client.act_batch(state[:2], policy=policy, masks=[[True, False], [True, True]], values=True)


def act_again(client: Client, row: dict[str, Any]) -> Any:
    return client.act(
        np.array(row["observation"], np.float32),
        policy=row["policy"],
        version=row["version"],
        mask=row.get("action_mask"),
        sample=row["selection"] == "sample",
        epsilon=row["epsilon"],
        seed=row["seed"],
        temperature=row["temperature"] if row["epsilon"] is None else None,
        probabilities=True,
    )


def test_logged_decisions_are_made_again_from_the_files(
    start_service, registry: PolicyRegistry, tmp_path: Path
) -> None:
    publish(registry, linear_model((0.0, 0.1)))
    publish(registry, linear_model((0.5, 0.0)))
    publish(registry, box_model(ARM, ARM_WEIGHTS, (-0.5, -1.0)), policy="arm", spec=ARM)
    logged, folder = start_service(inference_decision_log=tmp_path / "log"), tmp_path / "log"
    for policy in ("cartpole", "arm"):
        ask_in_every_way(logged.client, policy)
    assert logged.stop() == 0
    again = start_service()
    for policy, rows in (("cartpole", 4 * 8 + 32 + 3), ("arm", 4 * 8 + 32)):
        table = read(folder, policy).to_pylist()
        assert len(table) == rows
        for row in table:
            decision = act_again(again.client, row)
            np.testing.assert_array_equal(np.ravel(decision.action), np.ravel(row["action"]))
            assert decision.digest == row["digest"]
            assert decision.log_probability == row["log_probability"]
            if row["parameters"] is not None:
                assert decision.parameters is not None
                assert row["parameters"] == decision.parameters.tolist()


def test_columns_are_typed_as_the_spec_says(
    start_service, registry: PolicyRegistry, tmp_path: Path
) -> None:
    publish(registry, linear_model())
    publish(registry, box_model(ARM, ARM_WEIGHTS, (0.0, 0.0)), policy="arm", spec=ARM)
    service = start_service(inference_decision_log=tmp_path / "log")
    ask_in_every_way(service.client, "cartpole")
    service.client.act([0, 0, 0, 1], policy="arm")
    assert service.stop() == 0
    table = read(tmp_path / "log", "cartpole")
    types = {field.name: str(field.type) for field in table.schema}
    assert types["observation"] == "fixed_size_list<element: float>[4]"
    assert types["action_mask"] == "fixed_size_list<element: bool>[2]"
    assert types["action"] == "int64"
    assert types["time"] == "timestamp[us, tz=UTC]"
    rows = table.to_pylist()
    assert {row["alias"] for row in rows} == {"stable", None}
    assert all((row["alias"] is None) == (row["seed"] in range(100, 108)) for row in rows)
    assert {row["session"] for row in rows} == {None, *(f"robot-{i}" for i in range(8))}
    assert {row["selection"] for row in rows} == {"greedy", "sample", "epsilon_greedy"}
    assert sum(row["value"] is not None for row in rows) == 3
    assert sum(row["action_mask"] is not None for row in rows) == 3
    assert not any(row["degraded"] for row in rows)
    metadata = json.loads(table.schema.metadata[METADATA])
    assert (metadata["policy"], metadata["sampling_rate"]) == ("cartpole", 1.0)
    arm = read(tmp_path / "log", "arm").schema
    assert str(arm.field("action").type) == "fixed_size_list<element: float>[2]"
    assert "action_mask" not in arm.names


def test_tracked_decisions_are_sampled_by_their_ids(
    start_service, registry: PolicyRegistry, tmp_path: Path
) -> None:
    publish(registry, linear_model())
    with EmbeddedRedis(tmp_path / "valkey") as valkey:
        service = start_service(
            inference_decision_log=tmp_path / "log",
            inference_decision_log_rate=0.5,
            redis_url=valkey.url,
        )
        ids = [service.client.act([0, 0, 0, 1], track=True).decision_id for _ in range(60)]
        assert service.stop() == 0
    rows = read(tmp_path / "log", "cartpole").to_pylist()
    numbers = np.array([int(one.split(".")[0], 16) for one in ids if one], np.uint64)
    expected = {
        one for one, kept in zip(filter(None, ids), is_sampled(numbers, 0.5), strict=True) if kept
    }
    assert 10 < len(rows) < 50
    assert expected <= {row["decision_id"] for row in rows}
    assert {row["sampling_rate"] for row in rows} == {0.5}


def test_a_recurrent_policys_state_is_logged_too(
    start_service, registry: PolicyRegistry, tmp_path: Path
) -> None:
    publish(registry, gru_model(), policy="gru", spec=GRU)
    service = start_service(inference_decision_log=tmp_path / "log")
    states = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    for i, state in enumerate(states):
        service.client.act(state, session="robot-1", sample=True, seed=i + 1, episode_start=not i)
    assert service.stop() == 0
    runner = PolicyRunner(gru_model(), GRU)
    for row in read(tmp_path / "log", "gru").to_pylist():
        observation = np.array([row["observation"]], np.float32)
        before = np.array([row["recurrent_state"]], np.float32)
        parameters, _ = runner.step(observation, None, before)
        seeds = np.array([row["seed"]], np.uint64)
        again = runner.decide(parameters, sampled=np.array([True]), seeds=seeds)
        assert again.actions == [row["action"]]
        assert again.log_probabilities == [row["log_probability"]]


def test_a_sample_is_what_its_rate_says_and_holds_those_of_lower_rates() -> None:
    numbers = np.arange(100_000, dtype=np.uint64) + np.uint64(1 << 63)
    tenth, half = is_sampled(numbers, 0.1), is_sampled(numbers, 0.5)
    assert abs(tenth.mean() - 0.1) < 0.005
    assert abs(half.mean() - 0.5) < 0.008
    assert not (tenth & ~half).any()
    assert is_sampled(numbers, 1.0).all()


@pytest.fixture
def manifest(registry: PolicyRegistry, request: pytest.FixtureRequest) -> PolicyManifest:
    """Of a policy that no other test's metrics know."""
    name = f"p{abs(hash(request.node.name)) % 10**8}"
    publish(registry, linear_model(), policy=name)
    return registry.manifest(name, 1)


def decide(log: DecisionLog, manifest: PolicyManifest, rows: int = 1, batches: int = 1) -> None:
    """Log batches of one question each."""
    observer = log.of(manifest)
    for _ in range(batches):
        question = Question(
            PendingCall(),
            lambda *_: b"",
            np.zeros((rows, 4), np.float32),
            rows,
            asked=Asked("stable", ""),
        )
        table, parameters = np.zeros((rows, 2)), np.zeros((rows, 2), np.float32)
        observer.ran([question], Decisions([0] * rows, [0.0] * rows, table, parameters), 0.001)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_file_is_written_when_it_has_its_rows(tmp_path: Path, manifest: PolicyManifest) -> None:
    log = DecisionLog(str(tmp_path / "log"), LogLimits(rows=10))
    decide(log, manifest, rows=10)
    wait_for(lambda: metric("decision_log_rows", manifest.policy) == 10)
    assert [pq.read_metadata(path).num_rows for path in files_of(tmp_path / "log")] == [10]
    decide(log, manifest, rows=3)
    log.close(20)
    assert [pq.read_metadata(path).num_rows for path in files_of(tmp_path / "log")] == [10, 3]


def test_a_file_is_written_when_its_time_has_come(tmp_path: Path, manifest: PolicyManifest) -> None:
    log = DecisionLog(str(tmp_path / "log"), LogLimits(seconds=0.01))
    decide(log, manifest)
    wait_for(lambda: metric("decision_log_rows", manifest.policy) == 1)
    log.close(20)
    assert len(files_of(tmp_path / "log")) == 1


def test_the_largest_file_is_written_when_memory_is_full(
    tmp_path: Path, manifest: PolicyManifest
) -> None:
    log = DecisionLog(str(tmp_path / "log"), LogLimits(bytes=50_000))
    for _ in range(20):
        decide(log, manifest, rows=50)
        wait_for(lambda: log._queue.empty())
    log.close(20)
    assert len(files_of(tmp_path / "log")) > 3
    assert metric("decision_log_dropped", manifest.policy) == 0
    assert read(tmp_path / "log", manifest.policy).num_rows == 1000


def test_a_full_disk_costs_no_decision_until_memory_is_full(
    tmp_path: Path, manifest: PolicyManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    errors = "tutelage_inference_decision_log_errors_total"
    before = REGISTRY.get_sample_value(errors) or 0
    monkeypatch.setattr("services.inference.decision_log.RETRY_S", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr("services.common.durable.os.fsync", no_space)
        log = DecisionLog(str(tmp_path / "log"), LogLimits(rows=1, bytes=5_000))
        decide(log, manifest, batches=5)
        wait_for(lambda: (REGISTRY.get_sample_value(errors) or 0) > before)
        decide(log, manifest, rows=25)  # more than there is room for
        assert metric("decision_log_dropped", manifest.policy) == 25
        assert files_of(tmp_path / "log") == []
    log.close(20)
    assert read(tmp_path / "log", manifest.policy).num_rows == 5


def test_what_cannot_be_written_at_the_end_is_counted(
    tmp_path: Path, manifest: PolicyManifest
) -> None:
    (tmp_path / "log").write_text("a file, and no folder")
    log = DecisionLog(str(tmp_path / "log"), LogLimits())
    decide(log, manifest, rows=7)
    log.close(20)
    assert metric("decision_log_dropped", manifest.policy) == 7


def test_acting_goes_on_where_nothing_can_be_logged(
    start_service, registry: PolicyRegistry, tmp_path: Path
) -> None:
    publish(registry, linear_model())
    (tmp_path / "log").write_text("a file, and no folder")
    port = free_port()
    service: InferenceProcess = start_service(
        inference_decision_log=tmp_path / "log",
        inference_decision_log_rows=1,
        inference_metrics_port=port,
    )
    for _ in range(20):
        assert service.client.act([0, 0, 0, 1]).action == 1
    service.wait_for(lambda: service.records("decisions cannot be logged"))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        assert "tutelage_inference_decision_log_errors_total" in page.read().decode()
    assert service.stop() == 0
    assert service.records("call failed") == []
