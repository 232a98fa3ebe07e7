"""One way to reach Redis, and one translation of its troubles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.common.errors import InvalidConfig, ReplayUnavailable, StorageFull

CONNECT_TIMEOUT_S = 3.0
REPLY_TIMEOUT_S = 10.0
_PASSWORD = re.compile(r"(://[^:/@]*:).*@")


def connect(url: str) -> redis.Redis:
    """A client for redis://, rediss:// or unix:// URLs; connects on first use.

    Retries are the caller's (see `patiently`): only it knows what is safe to send again.

    Raises:
        InvalidConfig: when the URL is not one of Redis.
    """
    try:
        return redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=REPLY_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise InvalidConfig(f"TUTELAGE_REDIS_URL {redacted(url)!r}: {error}") from None


def redacted(url: str) -> str:
    """The URL without its password; works on malformed ones, for they are shown too."""
    return _PASSWORD.sub(r"\1***@", url)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn redis-py's errors into the platform's.

    Raises:
        ReplayUnavailable: no connection, no answer in time, still loading, or read-only.
        StorageFull: maxmemory is reached or the append-only file cannot be written.
    """
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError) as error:
        raise ReplayUnavailable(f"{what}: Redis does not answer ({error})") from error
    except redis.ResponseError as error:
        text = str(error)
        if "OOM" in text or "maxmemory" in text:
            raise StorageFull(f"{what}: Redis is out of memory (maxmemory): {text}") from error
        if "MISCONF" in text:
            raise StorageFull(f"{what}: Redis cannot write its data to disk: {text}") from error
        raise
