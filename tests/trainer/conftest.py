"""One Valkey and one feedback service for all runs of these tests, which keep apart by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import probe_environments  # noqa: F401 - registers them
import pytest
import torch
from feedback_rig import FeedbackProcess, start_feedback

from services.common.embedded_redis import EmbeddedRedis
from services.common.registry import PolicyRegistry
from services.trainer.resources import Resources

torch.set_num_threads(1)  # as runs do: small networks lose by threads


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_feedback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedbackProcess]:
    process = start_feedback(tmp_path_factory.mktemp("feedback"))
    yield process
    process.stop()


@pytest.fixture
def resources(shared_valkey: EmbeddedRedis, tmp_path: Path) -> Iterator[Resources]:
    found = Resources(
        redis_url=shared_valkey.url,
        registry=PolicyRegistry(str(tmp_path / "policies")),
        feedback_address="127.0.0.1:1",
        reward_models=tmp_path / "reward_models",
    )
    yield found
    found.redis.close()
