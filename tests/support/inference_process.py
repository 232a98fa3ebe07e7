"""The inference service as a real process, for tests that talk to it over real gRPC."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.ports import free_port
from tutelage import Client

START_S = 60.0
POLL_S = "0.05"


def environment(repository: Path, port: int, **settings: object) -> dict[str, str]:
    """The process's environment; settings are named without their prefix, in lower case."""
    variables = {
        "inference_address": f"127.0.0.1:{port}",
        "policy_repository": str(repository),
        "inference_poll_s": POLL_S,
        "inference_retry_s": "0",
        "log_format": "json",
        **settings,
    }
    own = {key: value for key, value in os.environ.items() if not key.startswith("TUTELAGE_")}
    return own | {f"TUTELAGE_{key.upper()}": str(value) for key, value in variables.items()}


class InferenceProcess:
    """`python -m services.inference` on a free port; ready when made."""

    def __init__(self, repository: Path, log: Path, **settings: object) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.inference"],
                env=environment(repository, port, **settings),
                stderr=stderr,
            )
        self.client = Client(self.address)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def records(self, event: str) -> list[dict[str, Any]]:
        """Log records of one kind."""
        lines = (json.loads(line) for line in self._log.read_text().splitlines() if line)
        return [line for line in lines if line["event"] == event]

    def wait_for(self, condition: Any, timeout_s: float = 20.0) -> Any:
        """The first true value of a condition."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not so within {timeout_s} s; log:\n{self._log.read_text()}")
            time.sleep(0.02)
        return value

    def wait_until_serving(self, policy: str, version: int, alias: str = "stable") -> None:
        """Wait for an alias to be answered by a version."""
        self.wait_for(lambda: self._serving().get(policy, {}).get(alias) == version)

    def stop(self) -> int:
        """End the process as an operator would; its exit code."""
        self.client.close()
        self.process.terminate()
        return self.process.wait(timeout=20)

    def _serving(self) -> dict[str, dict[str, int]]:
        return {policy.name: dict(policy.serving) for policy in self.client.policies()}

    def _wait_until_ready(self) -> None:
        with grpc.insecure_channel(self.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="tutelage.v1.PolicyService")

            def ready() -> bool:
                assert self.process.poll() is None, self._log.read_text()
                try:
                    status = health.Check(request, timeout=1).status
                except grpc.RpcError:
                    return False
                return bool(status == health_pb2.HealthCheckResponse.SERVING)

            self.wait_for(ready, START_S)
