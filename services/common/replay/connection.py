"""One way to reach Redis, and one translation of its troubles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.cluster import ClusterNode
from redis.connection import parse_url
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterError,
    NoPermissionError,
    RedisClusterException,
    TryAgainError,
)
from redis.retry import Retry

from services.common.errors import InvalidConfig, ReplayUnavailable, StorageFull

Client: TypeAlias = "redis.Redis | redis.RedisCluster"

CONNECT_TIMEOUT_S = 3.0
REPLY_TIMEOUT_S = 10.0
CLUSTER = "+cluster://"
DEFAULT_PORT = 6379
_PASSWORD = re.compile(r"(://[^:/@]*:).*@")
_PASSWORD_OPTION = re.compile(r"((?:[?&]|_)password=)[^&]*")
_DENIED = (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
)
_parse_url: Callable[[str], dict[str, Any]] = parse_url
_AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ReadOnlyError,
    ClusterError,
    RedisClusterException,
    TryAgainError,
)


def connect(url: str, timeout_s: float | None = None) -> Client:
    """A client for the Redis at a URL; a user, a password and TLS are said there too.

        redis://user:password@host:6379/0
        rediss://host:6379/0?ssl_ca_certs=/etc/ca.pem&ssl_certfile=…&ssl_keyfile=…
        unix:///run/redis.sock?db=0
        redis+cluster://host1:6379,host2:6379        of some of the nodes, and rediss+cluster://

    Args:
        timeout_s: to wait for a connection, and for a reply. Default: 3 s, and 10 s.

    Options are those of redis-py's connections. One server is connected to on first use, a
    cluster here, to learn who has what. Retries are the caller's (see `patiently`): only it
    knows what is safe to send again.

    Raises:
        InvalidConfig: when the URL is not one of Redis, or is refused there.
        ReplayUnavailable: when no node of the cluster answers.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": timeout_s or CONNECT_TIMEOUT_S,
        "socket_timeout": timeout_s or REPLY_TIMEOUT_S,
    }
    try:
        if CLUSTER in url:
            return _connect_cluster(url, options)
        client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # refuses options it does not know
        return client
    except (ValueError, TypeError) as error:
        raise InvalidConfig(f"TUTELAGE_REDIS_URL {redacted(url)!r}: {error}") from None


def connect_ahead(client: Client, connections: int) -> None:
    """Have so many connections of one server ready, so that first use does not wait for them: each
    takes five trips or so. A cluster's are made where `connect` asks it who has what.

    Raises:
        ReplayUnavailable: when it does not answer.
    """
    if isinstance(client, redis.RedisCluster):
        return
    pool, made = client.connection_pool, list[Any]()
    with explained("connecting"):
        try:
            for _ in range(connections):
                made.append(pool.get_connection())
        finally:
            for connection in made:
                pool.release(connection)


def _connect_cluster(url: str, options: dict[str, Any]) -> redis.RedisCluster:
    scheme, _, rest = url.partition(CLUSTER)
    place, slash, path = rest.partition("/")
    place, query, more = place.partition("?")
    login, at, hosts = place.rpartition("@")
    first, *others = hosts.split(",")
    parsed = _parse_url(f"{scheme}://{login}{at}{first}{slash}{path}{query}{more}")
    if parsed.pop("db", 0):
        raise ValueError("a cluster has no database but 0")
    parsed.pop("host", None), parsed.pop("port", None)
    if parsed.pop("connection_class", None) is redis.SSLConnection:
        parsed["ssl"] = True
    with explained("connecting"):
        return redis.RedisCluster(
            startup_nodes=[_node(host) for host in (first, *others)],
            # One more try, at where the slot is after the topology was asked for again.
            retry=Retry(ConstantBackoff(0), 1),
            require_full_coverage=False,
            **{**options, **parsed},
        )


def _node(address: str) -> ClusterNode:
    host, _, port = address.rpartition(":") if ":" in address else (address, "", "")
    return ClusterNode(host, int(port or DEFAULT_PORT))  # type: ignore[no-untyped-call]


def redacted(url: str) -> str:
    """The URL without its password; works on malformed ones, for they are shown too."""
    return _PASSWORD_OPTION.sub(r"\1***", _PASSWORD.sub(r"\1***@", url))


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn redis-py's errors into the platform's.

    Raises:
        InvalidConfig: Redis refuses the user, the password or the certificate, or the user
            may not do this.
        ReplayUnavailable: no connection, no answer in time, still loading, or read-only; in a
            cluster, no primary has the slot.
        StorageFull: maxmemory is reached or the append-only file cannot be written.
    """
    try:
        yield
    except _DENIED as error:
        raise InvalidConfig(
            f"{what}: Redis refuses it, see the user in TUTELAGE_REDIS_URL ({error})"
        ) from error
    except _AWAY as error:
        if isinstance(error.__cause__, _DENIED):
            raise InvalidConfig(
                f"{what}: Redis refuses it, see the user in TUTELAGE_REDIS_URL ({error})"
            ) from error
        if "Cluster mode is not enabled" in str(error):
            raise InvalidConfig(
                f"{what}: TUTELAGE_REDIS_URL says redis{CLUSTER}, but that server is not one of a "
                "cluster; say redis:// or rediss://"
            ) from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise InvalidConfig(
                f"{what}: the certificate of Redis is not trusted, see ssl_ca_certs in "
                f"TUTELAGE_REDIS_URL ({error})"
            ) from error
        raise ReplayUnavailable(f"{what}: Redis does not answer ({error})") from error
    except redis.ResponseError as error:
        text = str(error)
        if "OOM" in text or "maxmemory" in text:
            raise StorageFull(f"{what}: Redis is out of memory (maxmemory): {text}") from error
        if "MISCONF" in text:
            raise StorageFull(f"{what}: Redis cannot write its data to disk: {text}") from error
        raise
