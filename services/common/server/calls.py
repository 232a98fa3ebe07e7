"""What a service is to the transport under it: handlers of bytes, and of many calls at once.

A transport owns connections and knows no message; a handler knows messages and no connection.
So the same service stands on any transport, and pays for what it does once a batch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError, Message

from services.common.errors import InvalidInput

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)
Metadata = Sequence[tuple[str, str | bytes]]
# A serialized response, or why there is none: a TutelageError becomes its status, anything
# else is logged and becomes INTERNAL (see `services.common.server.errors`).
Reply = bytes | Exception


class Call(Protocol):
    """One call that has arrived, whichever transport brought it."""

    @property
    def method(self) -> str:
        """Its full name, such as "/tutelage.v1.PolicyService/Act"."""

    @property
    def metadata(self) -> Metadata:
        """What the caller sent beside the message: keys in lower case, bytes where they end
        in "-bin"."""

    @property
    def peer(self) -> str:
        """The caller's address; empty once the call is over."""

    @property
    def content(self) -> bytes:
        """The serialized request; empty where the caller streams."""

    @property
    def deadline(self) -> float:
        """When the caller stops waiting, as time.monotonic() has it; infinity for never."""

    @property
    def arrived(self) -> float:
        """When it came, as time.monotonic() has it."""

    def cancelled(self) -> bool:
        """Whether nobody waits for the reply any more: cancelled, gone, or too late."""

    def answer(self, reply: Reply) -> None:
        """Reply to a call that its batch handler left open, once, from any thread."""


# One reply for each call, in their order. None: the handler goes on with that one elsewhere
# and calls its `answer`. It must not block, nor raise for what is wrong with one call alone.
BatchHandler = Callable[[Sequence[Call]], Sequence[Reply | None]]
UnaryHandler = Callable[[Call], Awaitable[bytes]]
# Takes the caller's messages and gives its own, each in its time.
StreamHandler = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class BatchMethod:
    """Answered many calls at a time, synchronously, in the transport's own thread."""

    handle: BatchHandler


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """Answered call by call by a coroutine in the event loop."""

    handle: UnaryHandler


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """Answered message by message by an async generator in the event loop.

    stop: called in the event loop once the server takes no new calls: streams should come to
        their ends, which are otherwise waited for as long as calls under way may go on.
    """

    handle: StreamHandler
    stop: Callable[[], None] = lambda: None


Method = BatchMethod | UnaryMethod | StreamMethod


@dataclass(frozen=True, slots=True)
class MethodTable:
    """One gRPC service as handlers: its full name, and its methods by their short names.

    file: what reflection tells of it, if not what the process's own descriptors say.
    """

    name: str
    methods: Mapping[str, Method]
    file: FileDescriptorProto | None = None


def parse(kind: type[M], call: Call) -> M:
    """A call's request.

    Raises:
        InvalidInput: when the bytes are none.
    """
    try:
        return kind.FromString(call.content)
    except DecodeError as error:
        raise unreadable(call.method, error) from None


def unreadable(method: str, error: DecodeError) -> InvalidInput:
    """What is said of bytes that are not the method's request."""
    return InvalidInput(f"the request is not what {method.rsplit('/', 1)[-1]} takes: {error}")


def unary(kind: type[M], handle: Callable[[M, Call], Awaitable[R]]) -> UnaryMethod:
    """A method from a coroutine that takes a message of a kind, and the call, to a message."""

    async def answer(call: Call) -> bytes:
        response: Any = await handle(parse(kind, call), call)
        content: bytes = response.SerializeToString()
        return content

    return UnaryMethod(answer)
