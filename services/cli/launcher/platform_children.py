"""The platform on one machine: which processes it has, where they listen, when they are ready."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field

from services.cli.launcher.supervisor import Child
from services.common.embedded_redis import answers, publish_url, server_command
from services.common.errors import InvalidConfig, ReplayUnavailable, ResourceExhausted, Unavailable
from services.common.ports import LOOPBACK, free_port, port_is_free
from services.common.settings import PlatformSettings, Port, port_of
from tutelage import Credentials

PROBE_TIMEOUT_S = 2.0


class LauncherSettings(PlatformSettings):
    """What the launcher reads beside what every service reads."""

    app_port: Port = Field(8501, description="Port of the pages.")
    redis_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port of the embedded Valkey. Default 0: a free one."
    )


@dataclass(frozen=True)
class Listener:
    """A port that somebody needs, and the variable that changes it."""

    port: int
    owner: str
    variable: str


def listeners(settings: LauncherSettings) -> list[Listener]:
    """Every port the platform needs on this machine.

    Raises:
        InvalidConfig: when an address has no port.
    """
    needed = [
        Listener(port_of(settings.inference_address), "inference", "TUTELAGE_INFERENCE_ADDRESS"),
        Listener(port_of(settings.trainer_address), "trainer", "TUTELAGE_TRAINER_ADDRESS"),
        Listener(port_of(settings.feedback_address), "feedback", "TUTELAGE_FEEDBACK_ADDRESS"),
        Listener(settings.app_port, "pages", "TUTELAGE_APP_PORT"),
    ]
    if settings.redis_port and not settings.redis_url:
        needed.append(Listener(settings.redis_port, "valkey", "TUTELAGE_REDIS_PORT"))
    return needed


def check_ports(needed: Sequence[Listener], host: str) -> None:
    """Refuse to start where a port is taken, or wanted twice.

    Raises:
        InvalidConfig: two services want one port.
        ResourceExhausted: somebody else has it.
    """
    owners: dict[int, Listener] = {}
    for listener in needed:
        other = owners.setdefault(listener.port, listener)
        if other is not listener:
            raise InvalidConfig(
                f"{other.owner} and {listener.owner} both want port {listener.port}; "
                f"set {other.variable} or {listener.variable}"
            )
        if not port_is_free(listener.port, host):
            raise ResourceExhausted(
                f"port {listener.port}, which {listener.owner} needs, is taken; stop what "
                f"listens there, or set {listener.variable} to another one"
            )


def check_redis(url: str) -> None:
    """Refuse to start with a Redis that is not there.

    Raises:
        InvalidConfig: when the URL is none, or is refused there.
        Unavailable: when nothing answers; without the URL, which may hold a password.
    """
    from services.common.replay.connection import connect, explained

    try:
        with explained("starting"), connect(url) as client:
            client.ping()
    except ReplayUnavailable as error:
        raise Unavailable(
            f"the Redis that TUTELAGE_REDIS_URL names does not answer: {error.__cause__}; "
            "start it, or unset the variable to use an embedded one"
        ) from None


def platform_children(settings: LauncherSettings) -> list[Child]:
    """The processes in the order in which they start.

    Raises:
        PreconditionFailed: when there is no Redis and no program for an embedded one.
    """
    children = []
    redis_url = settings.redis_url
    if redis_url is None:
        port = settings.redis_port or free_port()
        redis_url = f"redis://{LOOPBACK}:{port}/0"
        children.append(_valkey(settings.data_dir / "redis", port))
    environment = {
        **os.environ,
        "TUTELAGE_REDIS_URL": redis_url,
        "TUTELAGE_DATA_DIR": str(settings.data_dir),
        "TUTELAGE_APP_PORT": str(settings.app_port),
        "PYTHONUNBUFFERED": "1",
    }
    credentials = settings.inference_credentials()
    for name, module, address in (
        ("trainer", "services.trainer", settings.trainer_address),
        ("feedback", "services.feedback", settings.feedback_address),
        ("inference", "services.inference", settings.inference_address),
    ):
        ready = GrpcProbe(address, credentials if name == "inference" else Credentials())
        children.append(Child(name, (sys.executable, "-m", module), ready, address, environment))
    return [*children, _pages(settings, environment)]


def _valkey(folder: Path, port: int) -> Child:
    folder.mkdir(parents=True, exist_ok=True)
    publish_url(folder, port)

    async def ready() -> bool:
        return await asyncio.to_thread(answers, port)

    return Child(
        "valkey", server_command(folder, port), ready, f"{LOOPBACK}:{port}", foundation=True
    )


def _pages(settings: LauncherSettings, environment: dict[str, str]) -> Child:
    address = f"{reachable(settings.host)}:{settings.app_port}"
    command = (sys.executable, "-m", "services.feedback.app")
    return Child("pages", command, PageProbe(address), f"http://{address}", environment)


def reachable(host: str) -> str:
    """An address to connect to, for one to listen on."""
    return LOOPBACK if host in ("0.0.0.0", "::", "") else host


def open_to(address: str, credentials: Credentials) -> grpc.aio.Channel:
    """A channel, by TLS where the credentials say so."""
    by_tls = credentials.channel_credentials()
    if by_tls is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, by_tls)


@dataclass(frozen=True)
class GrpcProbe:
    """Asks a service's health."""

    address: str
    credentials: Credentials

    async def __call__(self) -> bool:
        """Whether it says SERVING."""
        async with open_to(self.address, self.credentials) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                reply = await stub.Check(  # type: ignore[attr-defined] # missing in its stubs
                    health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S
                )
            except grpc.aio.AioRpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@dataclass(frozen=True)
class PageProbe:
    """Asks Streamlit's own health page."""

    address: str

    async def __call__(self) -> bool:
        """Whether it answers 200."""
        host, _, port = self.address.rpartition(":")
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await _answers_200(host, int(port))
        except (OSError, TimeoutError):
            return False


async def _answers_200(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /_stcore/health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        return b" 200 " in await reader.readline()
    finally:
        writer.close()
