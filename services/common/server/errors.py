"""The one place where an error becomes a gRPC status, and where calls are counted."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from prometheus_client import Counter

from services.common import errors
from services.common.histogram import Histogram
from services.common.server.calls import unreadable

log = structlog.get_logger()

DOMAIN = "tutelage"
# A status travels as metadata, twice and escaped, and clients take 8 KiB of that.
MAX_MESSAGE_BYTES = 1500
INTERNAL_MESSAGE = "internal error; the service's log has the details"
STATUS: dict[type[errors.TutelageError], int] = {
    errors.InvalidInput: code_pb2.INVALID_ARGUMENT,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.AlreadyExists: code_pb2.ALREADY_EXISTS,
    errors.PreconditionFailed: code_pb2.FAILED_PRECONDITION,
    errors.ResourceExhausted: code_pb2.RESOURCE_EXHAUSTED,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.DataCorrupted: code_pb2.DATA_LOSS,
    errors.TutelageError: code_pb2.UNKNOWN,
}
CALLS = Counter(
    "grpc_server_handled_total",
    "Calls completed, by method and status.",
    ["grpc_method", "grpc_code"],
)
LATENCY = Histogram(
    "grpc_server_handling_seconds",
    "Time from the arrival of a call to its reply.",
    "grpc_method",
    buckets=(5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1, 5, 30),
)


def status_of(error: errors.TutelageError) -> status_pb2.Status:
    """A google.rpc.Status with the error's message, and its class as ErrorInfo.reason."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN))
    message = _shortened(str(error))
    return status_pb2.Status(code=code_of(error), message=message, details=[detail])


def code_of(error: Exception) -> int:
    """The code of google.rpc that a call ends with."""
    codes = (STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return next(codes, code_pb2.INTERNAL)


def _shortened(message: str) -> str:
    encoded = message.encode(errors="replace")
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return message
    return encoded[:MAX_MESSAGE_BYTES].decode(errors="ignore") + "…"


def to_status(error: Exception, method: str) -> status_pb2.Status:
    """What a call is told of an error: of one that was not foreseen nothing, but the log is."""
    if isinstance(error, errors.TutelageError):
        return status_of(error)
    log.error("call failed", method=method, exc_info=error)
    return status_pb2.Status(code=code_pb2.INTERNAL, message=INTERNAL_MESSAGE)


class Outcomes:
    """Counts what became of a method's calls."""

    def __init__(self, method: str) -> None:
        self.method = method
        self._latency = LATENCY.labels(method)
        self._succeeded = CALLS.labels(method, "OK")

    def count(self, code: int, calls: int = 1) -> None:
        """Calls that ended with a code of google.rpc."""
        if code == code_pb2.OK:
            self._succeeded.inc(calls)
        else:
            CALLS.labels(self.method, code_pb2.Code.Name(code)).inc(calls)

    def took(self, seconds: Iterable[float]) -> None:
        """From the arrival of each of some calls to its reply."""
        self._latency.observe_all(seconds)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns a TutelageError into its status; anything else is logged and becomes INTERNAL."""

    def __init__(self) -> None:
        self._guarded: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the method's handler, once."""
        method: str = details.method
        guarded = self._guarded.get(method)
        if guarded is not None:
            return guarded
        handler = await continuation(details)
        if handler is None:
            return handler
        self._guarded[method] = _guard(handler, method)
        return self._guarded[method]


def _guard(handler: Any, method: str) -> Any:
    # Requests are read inside the guard: gRPC answers UNKNOWN to one that cannot be.
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(
            _guard_unary(handler.unary_unary, _reader(handler, method), method),
            response_serializer=handler.response_serializer,
        )
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(
            _guard_stream(handler.unary_stream, _reader(handler, method), method),
            response_serializer=handler.response_serializer,
        )
    if handler.stream_stream:  # of a table of methods: the handler reads the messages itself
        return grpc.stream_stream_rpc_method_handler(
            _guard_stream(handler.stream_stream, lambda requests: requests, method)
        )
    return handler


def _reader(handler: Any, method: str) -> Callable[[bytes], Any]:
    deserialize = handler.request_deserializer or bytes

    def read(content: bytes) -> Any:
        try:
            return deserialize(content)
        except DecodeError as error:
            raise unreadable(method, error) from None

    return read


def _guard_unary(call: Any, read: Callable[[bytes], Any], method: str) -> Any:
    outcomes = Outcomes(method)

    async def guarded(content: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        started = time.perf_counter()
        try:
            reply = await call(read(content), context)
        except Exception as error:  # noqa: BLE001 - the boundary of the service
            await _abort(context, error, outcomes)
        else:
            outcomes.count(code_pb2.OK)
            return reply
        finally:
            outcomes.took((time.perf_counter() - started,))

    return guarded


def _guard_stream(call: Any, read: Callable[[Any], Any], method: str) -> Any:
    outcomes = Outcomes(method)

    async def guarded(
        content: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        try:
            async for reply in call(read(content), context):
                yield reply
        except Exception as error:  # noqa: BLE001 - the boundary of the service
            await _abort(context, error, outcomes)
        else:
            outcomes.count(code_pb2.OK)

    if not inspect.isasyncgenfunction(call):
        raise TypeError(f"{method} must be an async generator")
    return guarded


async def _abort(
    context: grpc.aio.ServicerContext[Any, Any], error: Exception, outcomes: Outcomes
) -> None:
    if isinstance(error, grpc.aio.AbortError | asyncio.CancelledError):
        raise error
    status = to_status(error, outcomes.method)
    outcomes.count(status.code)
    await context.abort_with_status(rpc_status.to_status(status))
