"""Starts a gRPC server, keeps it until SIGTERM or SIGINT, and drains it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.errors import ResourceExhausted
from services.common.ports import port_is_free
from services.common.server import aio
from services.common.server.calls import MethodTable
from services.common.server.errors import ErrorInterceptor

log = structlog.get_logger()
MIB = 1 << 20


@dataclass(frozen=True)
class ServerOptions:
    """How a server listens.

    address: host:port; port 0 lets the system choose.
    max_message_bytes: a larger request is answered RESOURCE_EXHAUSTED.
    grace_s: how long calls under way may go on after the signal to stop.
    drain_s: how long health says NOT_SERVING before new calls are refused, so that load
        balancers look away first.
    max_connection_age_s: connections are closed gently after this long (plus or minus 10%),
        so that clients resolve names again and find new replicas; 0 never.
    """

    address: str
    max_message_bytes: int = 4 * MIB
    grace_s: float = 5.0
    drain_s: float = 0.0
    max_connection_age_s: int = 0

    def channel_arguments(self) -> list[tuple[str, int]]:
        """These options as gRPC has them."""
        arguments = [
            # Two servers on one port would share its calls in silence.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ]
        if self.max_connection_age_s:
            age_ms = self.max_connection_age_s * 1000
            arguments += [
                ("grpc.max_connection_age_ms", age_ms),
                ("grpc.max_connection_age_grace_ms", int(self.grace_s * 1000) or 1),
            ]
        return arguments


@dataclass(frozen=True)
class Service:
    """One gRPC service: its full name, and what adds its servicer to a server."""

    name: str
    register: Callable[[grpc.aio.Server], object]

    @classmethod
    def of(cls, table: MethodTable) -> Service:
        """A table of methods as a service of grpc.aio."""
        return cls(table.name, functools.partial(aio.register, table))


class GrpcServer:
    """A listening server with health and reflection beside its services."""

    def __init__(self, services: Sequence[Service], options: ServerOptions) -> None:
        self._options = options
        self._names = [service.name for service in services]
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor()], options=options.channel_arguments()
        )
        for service in services:
            service.register(self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )
        self.port = _bind(self._server, options.address)

    async def start(self) -> None:
        """Accept calls; health says NOT_SERVING until `set_ready`."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()

    async def set_ready(self) -> None:
        """Health says SERVING, for the whole server and for each service."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Say NOT_SERVING, wait `drain_s`, then let calls under way finish within `grace_s`."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._options.drain_s)
        await self._server.stop(self._options.grace_s)

    async def _set_health(self, status: Any) -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)


def _bind(server: grpc.aio.Server, address: str) -> int:
    host, _, wanted = address.rpartition(":")
    port = 0
    # Asked first, as gRPC would add a log line of its own to the one clear line.
    if wanted == "0" or port_is_free(int(wanted), host.strip("[]")):
        with contextlib.suppress(RuntimeError):
            port = server.add_insecure_port(address)
    if not port:
        raise ResourceExhausted(
            f"cannot listen on {address}: the port is taken or the address is not this machine's"
        )
    return port


async def run_service(
    services: Sequence[Service],
    options: ServerOptions,
    *,
    until_ready: Callable[[], Any] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        until_ready: awaited after the port is open and before health says SERVING.

    Raises:
        ResourceExhausted: when the port is taken.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = GrpcServer(services, options)
    await server.start()
    if until_ready is not None:
        await until_ready()
    await server.set_ready()
    log.info("listening", address=options.address, port=server.port)
    await stopped.wait()
    log.info("draining", grace_s=options.grace_s)
    await server.stop()
    log.info("stopped")
