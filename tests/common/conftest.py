"""One Valkey for all tests that only need a replay of their own in it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis

from services.common.embedded_redis import EmbeddedRedis
from services.common.replay import connect


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def client(shared_valkey: EmbeddedRedis) -> Iterator[redis.Redis]:
    with connect(shared_valkey.url) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A replay's name that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"
