"""Reaching Redis, and saying so without passwords when it cannot be."""

from __future__ import annotations

import pytest
import redis
from redis.exceptions import (
    ClusterDownError,
    NoPermissionError,
    SlotNotCoveredError,
    TryAgainError,
)

from services.common.embedded_redis import EmbeddedRedis
from services.common.errors import InvalidConfig, ReplayUnavailable, StorageFull
from services.common.ports import free_port
from services.common.replay.connection import connect, explained, redacted


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:secret@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://user:secret@h", "redis://user:***@h"),
        ("redis://user:se:c/r@et@h", "redis://user:***@h"),
        ("redis://:secret@[broken", "redis://:***@[broken"),
        ("redis+cluster://u:secret@a:1,b:2", "redis+cluster://u:***@a:1,b:2"),
        ("unix:///a.sock?password=secret&db=0", "unix:///a.sock?password=***&db=0"),
        ("rediss://h?ssl_password=secret", "rediss://h?ssl_password=***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@host",
        "redis://:secret@host:port",
        "redis://:secret@host/0?socket_timeout=x",
        "redis://:secret@[broken",
        "secret@host",
        "http+cluster://user:secret@host",
        "redis+cluster://user:secret@host:port",
        "redis+cluster://user:secret@host/1",
        "redis://user:secret@host?no_such_option=1",
    ],
)
def test_a_url_that_is_not_of_redis_is_refused_by_the_name_of_its_variable(url: str) -> None:
    with pytest.raises(InvalidConfig, match="TUTELAGE_REDIS_URL") as refused:
        connect(url)
    assert ":secret" not in str(refused.value)


def test_nobody_there_is_said_as_such() -> None:
    client = connect(f"redis://127.0.0.1:{free_port()}/0")
    with (
        pytest.raises(ReplayUnavailable, match="looking: Redis does not answer"),
        explained("looking"),
    ):
        client.ping()


def test_a_cluster_of_which_no_node_answers_is_said_as_such() -> None:
    hosts = ",".join(f"127.0.0.1:{free_port()}" for _ in range(2))
    with pytest.raises(ReplayUnavailable, match="connecting: Redis does not answer"):
        connect(f"redis+cluster://user:secret@{hosts}/0?socket_timeout=1")


def test_a_server_that_is_no_cluster_is_said_as_such(shared_valkey: EmbeddedRedis) -> None:
    with pytest.raises(InvalidConfig, match="not one of a cluster; say redis://"):
        connect(shared_valkey.url.replace("redis://", "redis+cluster://"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis.TimeoutError("slow"), ReplayUnavailable),
        (redis.BusyLoadingError("loading"), ReplayUnavailable),
        (redis.ReadOnlyError("replica"), ReplayUnavailable),
        (ClusterDownError("CLUSTERDOWN The cluster is down"), ReplayUnavailable),
        (SlotNotCoveredError("nobody has the slot"), ReplayUnavailable),
        (TryAgainError("slot is moving"), ReplayUnavailable),
        (redis.AuthenticationError("WRONGPASS"), InvalidConfig),
        (NoPermissionError("NOPERM"), InvalidConfig),
        (redis.ResponseError("OOM command not allowed"), StorageFull),
        (redis.ResponseError("MISCONF Errors writing to the AOF file"), StorageFull),
        (redis.ResponseError("WRONGTYPE"), redis.ResponseError),
    ],
)
def test_troubles_of_redis_become_the_platforms(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind), explained("appending"):
        raise error
