"""Repositories to publish in, and the real service beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from inference_process import InferenceProcess
from transports import TRANSPORTS

from services.common.registry import PolicyRegistry

StartService = Callable[..., InferenceProcess]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "policies"


@pytest.fixture
def registry(repository: Path) -> PolicyRegistry:
    return PolicyRegistry(str(repository))


@pytest.fixture(params=TRANSPORTS)
def start_service(
    repository: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[StartService]:
    """Starts the service on the test's repository; it is stopped when the test ends."""
    started: list[InferenceProcess] = []

    def start(**settings: object) -> InferenceProcess:
        log = tmp_path / f"inference-{len(started)}.log"
        settings = {"inference_transport": request.param, **settings}
        started.append(InferenceProcess(repository, log, **settings))
        return started[-1]

    yield start
    for process in started:
        process.stop()
