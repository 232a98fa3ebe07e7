"""Reaching Redis, and saying so without passwords when it cannot be."""

from __future__ import annotations

import pytest
import redis

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


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis.TimeoutError("slow"), ReplayUnavailable),
        (redis.BusyLoadingError("loading"), ReplayUnavailable),
        (redis.ReadOnlyError("replica"), ReplayUnavailable),
        (redis.ResponseError("OOM command not allowed"), StorageFull),
        (redis.ResponseError("MISCONF Errors writing to the AOF file"), StorageFull),
        (redis.ResponseError("WRONGTYPE"), redis.ResponseError),
    ],
)
def test_troubles_of_redis_become_the_platforms(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind), explained("appending"):
        raise error
