"""The process: starting, what it says when it cannot, health, metrics, and leaving gracefully."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from inference_process import InferenceProcess, environment
from tiny_policies import dense_model, linear_model, publish, random_layers

from services.common.ports import free_port
from services.common.registry import PolicyRegistry
from services.common.spec import ObservationSpace
from tutelage import AsyncClient
from tutelage.errors import NotFound, ResourceExhausted, Unavailable

OBSERVATION = [0.0, 0.0, 0.1, 0.0]


def run(repository: Path, port: int, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.inference"],
        env=environment(repository, port, **settings),
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )


def test_a_taken_port_is_one_clear_line(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run(repository, port)

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"inference: cannot listen on 127.0.0.1:{port}")


def test_a_taken_metrics_port_is_one_clear_line(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run(repository, free_port(), inference_metrics_port=taken.getsockname()[1])

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("inference: metrics port 127.0.0.1:")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("inference_max_batch", "0"), ("inference_poll_s", "soon"), ("inference_address", "here")],
)
def test_a_wrong_setting_is_one_clear_line(repository: Path, setting: str, value: str) -> None:
    ended = run(repository, free_port(), **{setting: value})

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert value in line


def test_an_empty_repository_is_ready_and_says_what_is_missing(start_service) -> None:
    service = start_service()

    with pytest.raises(NotFound, match="nothing has been published yet"):
        service.client.act(OBSERVATION)
    with pytest.raises(NotFound, match="nothing has been published yet"):
        service.client.policy()
    assert service.client.policies() == []


def test_metrics(start_service, registry: PolicyRegistry) -> None:
    publish(registry, linear_model())
    port = free_port()
    service = start_service(inference_metrics_port=port)
    service.client.act(OBSERVATION)

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text = reply.read().decode()

    assert 'tutelage_inference_serving_version{alias="stable",policy="cartpole"} 1.0' in text
    for name in ("queue_seconds", "run_seconds", "batch_rows"):
        assert f'tutelage_inference_{name}_count{{policy="cartpole"}} 1.0' in text
    assert 'le="5e-05"' in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_calls_under_way_finish_when_told_to_stop(
    start_service, registry: PolicyRegistry, number: signal.Signals
) -> None:
    slow = dense_model(random_layers([64, 2048, 2048, 2]))
    space = ObservationSpace(dtype="float32", shape=(64,))
    publish(registry, slow, spec=_spec(space))
    service: InferenceProcess = start_service(inference_max_batch=16)
    rows = np.full((700, 64), 0.1, np.float32)

    async with AsyncClient(service.address) as client:
        await client.act_batch(rows[:1], timeout_s=30)  # connected, and the model is there
        calls = [asyncio.create_task(client.act_batch(rows, timeout_s=30)) for _ in range(4)]
        await asyncio.sleep(0.2)
        service.process.send_signal(number)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert [len(o.actions) for o in outcomes] == [700] * 4
    assert await asyncio.to_thread(service.process.wait, 20) == 0
    assert [r["event"] for r in service.records("stopped")] == ["stopped"]


def test_health_says_not_serving_while_draining(start_service, registry: PolicyRegistry) -> None:
    service = start_service(inference_drain_s=0.7)
    with grpc.insecure_channel(service.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        service.process.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
    assert service.process.wait(20) == 0


async def test_a_full_queue_answers_resource_exhausted(
    start_service, registry: PolicyRegistry
) -> None:
    space = ObservationSpace(dtype="float32", shape=(64,))
    model = dense_model(random_layers([64, 2048, 2048, 2]))
    publish(registry, model, spec=_spec(space))
    service = start_service(inference_queue_limit=2, inference_max_batch=1)

    async with AsyncClient(service.address) as client:
        calls = (client.act([0.1] * 64, timeout_s=30) for _ in range(60))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

    refused = [o for o in outcomes if isinstance(o, ResourceExhausted)]
    assert 0 < len(refused) < 60
    assert "the limit is 2" in str(refused[0])
    assert all(isinstance(o, ResourceExhausted) or o.version == 1 for o in outcomes)


def test_nobody_there_is_unavailable(start_service) -> None:
    service = start_service()
    service.process.kill()
    service.process.wait(20)

    with pytest.raises(Unavailable):
        service.client.act(OBSERVATION, timeout_s=20)


def _spec(space: ObservationSpace) -> object:
    from tiny_policies import CARTPOLE

    return CARTPOLE.model_copy(update={"observation": space})
