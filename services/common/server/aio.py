"""A table of methods on grpc.aio, the transport that is there wherever grpcio is."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.common.server.awaited import AwaitedCall, TurnGatherer
from services.common.server.calls import (
    BatchHandler,
    BatchMethod,
    Metadata,
    Method,
    MethodTable,
    StreamHandler,
    UnaryHandler,
    UnaryMethod,
)

Context = grpc.aio.ServicerContext[Any, Any]


class AioCall(AwaitedCall):
    """A call that grpc.aio brought; see `Call`."""

    __slots__ = ("_context", "_method")

    def __init__(self, method: str, content: bytes, context: Context) -> None:
        # The reply is cancelled with the coroutine that awaits it, as when the caller leaves.
        super().__init__(content)
        self._method, self._context = method, context

    @property
    def method(self) -> str:
        """As in `Call`."""
        return self._method

    @property
    def metadata(self) -> Metadata:
        """As in `Call`."""
        return tuple(self._context.invocation_metadata() or ())

    @property
    def peer(self) -> str:
        """As in `Call`."""
        return str(self._context.peer() or "")

    @property
    def deadline(self) -> float:
        """As in `Call`."""
        left = self._context.time_remaining()
        return math.inf if left is None else time.monotonic() + left


def register(table: MethodTable, server: grpc.aio.Server) -> None:
    """Add a table's methods to a server."""
    handlers = {
        name: _handler(f"/{table.name}/{name}", method) for name, method in table.methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(table.name, handlers),))


def _handler(path: str, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
    if isinstance(method, BatchMethod):
        return grpc.unary_unary_rpc_method_handler(_gathered(path, method.handle))
    if isinstance(method, UnaryMethod):
        return grpc.unary_unary_rpc_method_handler(_unary(path, method.handle))
    return grpc.stream_stream_rpc_method_handler(_stream(path, method.handle))


def _gathered(path: str, handle: BatchHandler) -> Any:
    gatherer = TurnGatherer(handle)

    async def answer(content: bytes, context: Context) -> bytes:
        return await gatherer.add(AioCall(path, content, context))

    return answer


def _unary(path: str, handle: UnaryHandler) -> Any:
    async def answer(content: bytes, context: Context) -> bytes:
        call = AioCall(path, content, context)
        try:
            return await handle(call)
        finally:
            call.reply.cancel()  # it is over, whoever ended it

    return answer


def _stream(path: str, handle: StreamHandler) -> Any:
    async def answer(contents: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        call = AioCall(path, b"", context)
        try:
            async for reply in handle(contents, call):
                yield reply
        finally:
            call.reply.cancel()

    return answer
