"""A table of methods on grpc.aio, the transport that is there wherever grpcio is."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.common.server.calls import (
    BatchHandler,
    BatchMethod,
    Metadata,
    Method,
    MethodTable,
    Reply,
    StreamHandler,
    UnaryHandler,
    UnaryMethod,
)

Context = grpc.aio.ServicerContext[Any, Any]


class AioCall:
    """A call that grpc.aio brought; see `Call`."""

    __slots__ = ("_context", "_loop", "arrived", "content", "method", "reply")

    def __init__(self, method: str, content: bytes, context: Context) -> None:
        self.method = method
        self.content = content
        self.arrived = time.monotonic()
        self._context = context
        self._loop = asyncio.get_running_loop()
        # Cancelled together with the coroutine that awaits it, as it is when the caller leaves.
        self.reply: asyncio.Future[bytes] = self._loop.create_future()

    @property
    def metadata(self) -> Metadata:
        """As in `Call`."""
        return tuple(self._context.invocation_metadata() or ())

    @property
    def deadline(self) -> float:
        """As in `Call`."""
        left = self._context.time_remaining()
        return math.inf if left is None else time.monotonic() + left

    def cancelled(self) -> bool:
        """As in `Call`."""
        return self.reply.done()

    def answer(self, reply: Reply) -> None:
        """As in `Call`."""
        self._loop.call_soon_threadsafe(self.settle, reply)

    def settle(self, reply: Reply) -> None:
        """Answer in the event loop's own thread."""
        if self.reply.done():
            return
        if isinstance(reply, bytes):
            self.reply.set_result(reply)
        else:
            self.reply.set_exception(reply)


class _Gatherer:
    """Gathers the calls of one turn of the event loop for a batch handler."""

    def __init__(self, handler: BatchHandler) -> None:
        self._handler = handler
        self._calls: list[AioCall] = []

    def add(self, call: AioCall) -> asyncio.Future[bytes]:
        if not self._calls:
            asyncio.get_running_loop().call_soon(self._handle)
        self._calls.append(call)
        return call.reply

    def _handle(self) -> None:
        calls = [call for call in self._calls if not call.cancelled()]
        self._calls = []
        try:
            replies = self._handler(calls)
        except Exception as error:  # noqa: BLE001 - whatever it is, all of them are answered
            replies = [error] * len(calls)
        for call, reply in zip(calls, replies, strict=True):
            if reply is not None:
                call.settle(reply)


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
    gatherer = _Gatherer(handle)

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
