"""Several processes on one port: calls reach all of them, and one that dies is replaced."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from inference_process import InferenceProcess, environment
from tiny_policies import linear_model, publish

from services.common.ports import free_port, port_is_free
from services.common.registry import PolicyRegistry
from services.inference.workers import Workers, held
from tutelage import Client

OBSERVATION = [0.0, 0.0, 0.1, 0.0]


def workers_of(service: InferenceProcess) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children()


def answered(metrics_port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5) as reply:
        lines = reply.read().decode().splitlines()
    method = 'grpc_method="/tutelage.v1.PolicyService/Act"'
    counts = [line for line in lines if line.startswith("grpc_server_handled_total{")]
    return sum(float(line.split()[-1]) for line in counts if method in line)


def ask_once(address: str) -> None:
    with Client(address) as client:
        assert client.act(OBSERVATION).action == 1


def test_all_workers_are_dealt_connections_and_a_killed_one_is_replaced(
    registry: PolicyRegistry, repository: Path, tmp_path: Path
) -> None:
    publish(registry, linear_model())
    metrics = free_port()
    service = InferenceProcess(
        repository, tmp_path / "log", inference_workers=2, inference_metrics_port=metrics
    )
    try:
        service.wait_for(lambda: len(service.records("listening")) == 2)
        for _ in range(40):
            ask_once(service.address)
        shares = [answered(metrics), answered(metrics + 1)]
        assert sum(shares) == 40
        assert min(shares) > 0

        first, second = workers_of(service)
        first.kill()
        service.wait_for(lambda: len(service.records("listening")) == 3)
        assert service.records("worker ended, starting another")[0]["code"] == -signal.SIGKILL
        assert second.is_running()
        for _ in range(10):
            ask_once(service.address)
        left = workers_of(service)
    finally:
        code = service.stop()

    assert code == 0
    assert not [worker for worker in left if worker.is_running()]
    assert len(service.records("stopped")) == 2
    assert port_is_free(int(service.address.rpartition(":")[2]))


def test_a_port_that_others_have_is_one_clear_line(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "services.inference"],
            env=environment(repository, port, inference_workers=2),
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"inference: cannot listen on 127.0.0.1:{port}")


def test_a_held_port_is_shared_by_those_who_mean_to_alone() -> None:
    with held("127.0.0.1:0") as port:
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))


def test_workers_that_cannot_run_are_not_tried_again(tmp_path: Path) -> None:
    cannot = [sys.executable, "-c", "import sys; sys.exit(1)"]
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]

    before = psutil.Process().children()

    assert Workers([waits, cannot], grace_s=1).run() == 1
    assert psutil.Process().children() == before
