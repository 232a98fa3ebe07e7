"""How the clients reach a service: names, balancing, retries, keepalive."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence

import grpc

from tutelage.credentials import Credentials
from tutelage.errors import InvalidInput

MESSAGE_BYTES = 64 << 20
# Calls that may reach the service twice and mean the same. The others are retried only by
# gRPC itself, where it knows that the service has not seen the call.
_REPEATABLE = {
    "tutelage.v1.PolicyService": [
        "Act",
        "ActBatch",
        "ReportOutcome",
        "GetPolicy",
        "ListPolicies",
    ],
    "tutelage.v1.TrainingService": ["StartRun", "StopRun", "GetRun", "ListRuns", "WatchRun"],
    "tutelage.v1.FeedbackService": [
        "NextPair",
        "SubmitPreference",
        "UndoPreference",
        "ListPreferences",
        "UploadSegments",
        "GetClip",
        "GetProgress",
    ],
}
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method}
                for service, methods in _REPEATABLE.items()
                for method in methods
            ],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
OPTIONS: Sequence[tuple[str, str | int]] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


def target_of(address: str) -> str:
    """gRPC's name for an address.

    Args:
        address: `host:port`, looked up again as connections come and go; several of them
            with commas between, looked up once; or a gRPC target such as `unix:/run/x`.

    Raises:
        InvalidInput: when there is no port, or a name of several cannot be looked up.
    """
    if "://" in address or address.startswith(("unix:", "dns:", "ipv4:", "ipv6:")):
        return address
    hosts = [part.strip() for part in address.split(",")]
    for host in hosts:
        name, _, port = host.rpartition(":")
        if not name or not port.isdigit():
            raise InvalidInput(f"address {host!r} must be host:port, such as 127.0.0.1:50051")
    if len(hosts) == 1:
        return f"dns:///{address.strip()}"
    return "ipv4:" + ",".join(_look_up(host) for host in hosts)


def _look_up(host: str) -> str:
    name, _, port = host.rpartition(":")
    try:
        found = socket.getaddrinfo(name, int(port), socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidInput(f"address {host!r} cannot be looked up: {error}") from None
    return f"{found[0][4][0]!s}:{port}"


def open_channel(address: str, credentials: Credentials) -> grpc.Channel:
    """A channel that connects when it is first used."""
    by_tls = credentials.channel_credentials()
    if by_tls is None:
        return grpc.insecure_channel(target_of(address), options=OPTIONS)
    return grpc.secure_channel(target_of(address), by_tls, options=OPTIONS)


def open_async_channel(address: str, credentials: Credentials) -> grpc.aio.Channel:
    """As `open_channel`, for asyncio."""
    by_tls = credentials.channel_credentials()
    if by_tls is None:
        return grpc.aio.insecure_channel(target_of(address), options=OPTIONS)
    return grpc.aio.secure_channel(target_of(address), by_tls, options=OPTIONS)
