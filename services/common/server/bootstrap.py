"""Starts a gRPC server, keeps it until SIGTERM or SIGINT, and drains it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import grpc
import structlog

from services.common.errors import InvalidConfig, ResourceExhausted
from services.common.ports import port_is_free
from services.common.server import aio
from services.common.server.calls import MethodTable, StreamMethod
from services.common.server.errors import ErrorInterceptor
from services.common.server.health import Health
from services.common.server.reflection import reflection_tables

log = structlog.get_logger()
MIB = 1 << 20
Transport = Literal["auto", "native", "aio"]


@dataclass(frozen=True)
class Tls:
    """A server's certificate and key in PEM.

    client_authority: clients must show a certificate that it signed; empty: anyone may call.
    """

    certificate: bytes
    key: bytes
    client_authority: bytes = b""

    def credentials(self) -> grpc.ServerCredentials:
        """As grpc.aio has them."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.client_authority or None,
            require_client_auth=bool(self.client_authority),
        )


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
    transport: what the services stand on, all of which must be tables of methods where that is
        native; auto takes the native one where it has been built.
    max_waiting_calls, max_waiting_bytes: what may wait in the native transport before calls are
        answered RESOURCE_EXHAUSTED.
    tls: None: none.
    share_port: whether other servers may listen on the same port, each on connections of its own.
    """

    address: str
    max_message_bytes: int = 4 * MIB
    grace_s: float = 5.0
    drain_s: float = 0.0
    max_connection_age_s: int = 0
    transport: Transport = "aio"
    max_waiting_calls: int = 4096
    max_waiting_bytes: int = 256 * MIB
    tls: Tls | None = None
    share_port: bool = False

    def channel_arguments(self) -> list[tuple[str, int]]:
        """These options as gRPC has them."""
        arguments = [
            # Two servers on one port would share its calls in silence, unless they mean to.
            ("grpc.so_reuseport", int(self.share_port)),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            # Who connects and says nothing, or opens calls without end, is not waited for.
            ("grpc.server_handshake_timeout_ms", 10_000),
            ("grpc.max_concurrent_streams", 1024),
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


class Server(Protocol):
    """A listening server, whatever its transport, with health and reflection beside its services.

    port: where it listens.
    """

    port: int

    async def start(self) -> None:
        """Accept calls; health says NOT_SERVING until `set_ready`."""

    async def set_ready(self) -> None:
        """Health says SERVING, for the whole server and for each service."""

    async def stop(self) -> None:
        """Say NOT_SERVING, wait `drain_s`, then let calls under way finish within `grace_s`."""


class GrpcServer:
    """A Server on grpc.aio."""

    def __init__(self, services: Sequence[Service | MethodTable], options: ServerOptions) -> None:
        self._options = options
        self._health, tables = _beside(services)
        self._tables = tables
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor()], options=options.channel_arguments()
        )
        for service in services:
            if isinstance(service, Service):
                service.register(self._server)
        for table in tables:
            aio.register(table, self._server)
        self.port = _bind(self._server, options)

    async def start(self) -> None:
        """As in `Server`."""
        await self._server.start()

    async def set_ready(self) -> None:
        """As in `Server`."""
        await self._health.set_serving(True)

    async def stop(self) -> None:
        """As in `Server`."""
        await self._health.set_serving(False)
        await asyncio.sleep(self._options.drain_s)
        await _ending_streams(self._tables, self._server.stop(self._options.grace_s))


class NativeServer:
    """A Server on the native transport.

    Raises:
        ImportError: when that has not been built here.
    """

    def __init__(self, services: Sequence[MethodTable], options: ServerOptions) -> None:
        from services.common.server.native import NativeTransport

        self._options = options
        self._health, self._tables = _beside(services)
        if not options.share_port:
            check_port(options.address)
        tls = options.tls
        try:
            self._transport = NativeTransport(
                options.address,
                self._tables,
                arguments=dict(options.channel_arguments()),
                most_calls=options.max_waiting_calls,
                most_bytes=options.max_waiting_bytes,
                certificate=tls.certificate if tls else b"",
                key=tls.key if tls else b"",
                client_authority=tls.client_authority if tls else b"",
            )
        except RuntimeError:
            raise cannot_listen(options.address) from None
        self.port = self._transport.port

    async def start(self) -> None:
        """As in `Server`."""
        self._transport.start()

    async def set_ready(self) -> None:
        """As in `Server`."""
        await self._health.set_serving(True)

    async def stop(self) -> None:
        """As in `Server`."""
        await self._health.set_serving(False)
        await asyncio.sleep(self._options.drain_s)
        await _ending_streams(self._tables, self._transport.stop(self._options.grace_s))


def open_server(services: Sequence[Service | MethodTable], options: ServerOptions) -> Server:
    """A server on the transport that the options want, or on the best there is.

    Raises:
        ResourceExhausted: when the port is taken.
        InvalidConfig: when the native transport is wanted and is not there.
    """
    tables = [service for service in services if isinstance(service, MethodTable)]
    if options.transport == "aio":
        return GrpcServer(services, options)
    try:
        return NativeServer(tables, options)
    except ImportError as error:
        if options.transport == "native":
            raise InvalidConfig(
                f"the native transport has not been built here ({error}); "
                "`make native` says what it needs, and transport aio does without"
            ) from None
        log.info("native transport not built, serving with grpc.aio", reason=str(error))
        return GrpcServer(services, options)


def _beside(services: Sequence[Service | MethodTable]) -> tuple[Health, list[MethodTable]]:
    """Health, and all tables of a server: its own, health's and reflection's."""
    names = [service.name for service in services]
    health = Health(names)
    own = [service for service in services if isinstance(service, MethodTable)]
    files = {table.name: table.file for table in own if table.file is not None}
    return health, [*own, health.table, *reflection_tables([*names, health.table.name], files)]


async def _ending_streams(tables: Sequence[MethodTable], stop: Awaitable[None]) -> None:
    """Stop, and have streams come to their ends once clients are told to go elsewhere."""
    stopping = asyncio.ensure_future(stop)
    await asyncio.sleep(0)
    for table in tables:
        for method in table.methods.values():
            if isinstance(method, StreamMethod):
                method.stop()
    await stopping


def _bind(server: grpc.aio.Server, options: ServerOptions) -> int:
    address, tls = options.address, options.tls
    if not options.share_port:
        check_port(address)
    port = 0
    with contextlib.suppress(RuntimeError):
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls.credentials())
    if not port:
        raise cannot_listen(address)
    return port


def check_port(address: str) -> None:
    """Refuse an address that is taken; asked first, as gRPC would add log lines of its own.

    Raises:
        ResourceExhausted: when it is.
    """
    host, _, wanted = address.rpartition(":")
    if wanted != "0" and not port_is_free(int(wanted), host.strip("[]")):
        raise cannot_listen(address)


def cannot_listen(address: str) -> ResourceExhausted:
    """What is said where an address cannot be had."""
    return ResourceExhausted(
        f"cannot listen on {address}: the port is taken or the address is not this machine's"
    )


async def run_service(
    services: Sequence[Service | MethodTable],
    options: ServerOptions,
    *,
    until_ready: Callable[[], Any] | None = None,
    on_stop: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        until_ready: awaited after the port is open and before health says SERVING.
        on_stop: called before draining.

    Raises:
        ResourceExhausted: when the port is taken.
        InvalidConfig: when the native transport is wanted and is not there.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = open_server(services, options)
    await server.start()
    if until_ready is not None:
        await until_ready()
    await server.set_ready()
    transport = "aio" if isinstance(server, GrpcServer) else "native"
    log.info("listening", address=options.address, port=server.port, transport=transport)
    await stopped.wait()
    on_stop()
    log.info("draining", grace_s=options.grace_s)
    await server.stop()
    log.info("stopped")
