"""Tells those who look on of each call and what became of it, whatever its transport and kind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from google.rpc import code_pb2

from services.common.server.calls import (
    BatchHandler,
    BatchMethod,
    Call,
    Metadata,
    Method,
    MethodTable,
    Reply,
    StreamHandler,
    StreamMethod,
    UnaryHandler,
    UnaryMethod,
)
from services.common.server.errors import code_of


class Watcher(Protocol):
    """Looks on; is quick, and never raises. From any thread."""

    def began(self, call: WatchedCall) -> None:
        """A call has come."""

    def ended(self, call: WatchedCall, code: int, error: Exception | None) -> None:
        """It has a reply, which is not sent yet, or nobody waits for one any more.

        Args:
            code: of google.rpc.
        """


class WatchedCall:
    """A call that is looked at; see Call.

    notes: what is known of it beside, such as the policy that is asked; see `note`.
    kept: what a watcher keeps with it.
    """

    __slots__ = ("_call", "_over", "_watchers", "kept", "notes")

    def __init__(self, call: Call, watchers: Sequence[Watcher]) -> None:
        self._call, self._watchers, self._over = call, watchers, False
        self.notes: dict[str, Any] = {}
        self.kept: Any = None
        for watcher in watchers:
            watcher.began(self)

    @property
    def method(self) -> str:
        """As in Call."""
        return self._call.method

    @property
    def metadata(self) -> Metadata:
        """As in Call."""
        return self._call.metadata

    @property
    def content(self) -> bytes:
        """As in Call."""
        return self._call.content

    @property
    def peer(self) -> str:
        """As in Call."""
        return self._call.peer

    @property
    def deadline(self) -> float:
        """As in Call."""
        return self._call.deadline

    @property
    def arrived(self) -> float:
        """As in Call."""
        return self._call.arrived

    def cancelled(self) -> bool:
        """As in Call."""
        return self._call.cancelled()

    def answer(self, reply: Reply) -> None:
        """As in Call."""
        self.over(reply)
        self._call.answer(reply)

    def over(self, reply: Reply | BaseException) -> None:
        """Tell what became of it, once."""
        if isinstance(reply, bytes):
            self._end(code_pb2.OK, None)
        elif isinstance(reply, Exception):
            self._end(code_of(reply), reply)
        else:
            self._leave()

    def __del__(self) -> None:
        if not self._over:  # let go of without an answer: its caller has left
            self._leave()

    def _leave(self) -> None:
        late = time.monotonic() >= self._call.deadline
        self._end(code_pb2.DEADLINE_EXCEEDED if late else code_pb2.CANCELLED, None)

    def _end(self, code: int, error: Exception | None) -> None:
        if not self._over:
            self._over = True
            for watcher in self._watchers:
                watcher.ended(self, code, error)


def note(call: Call, **facts: Any) -> None:
    """Say more of a call to those who look at it, if anybody does."""
    if isinstance(call, WatchedCall):
        call.notes.update(facts)


def watched(table: MethodTable, watchers: Sequence[Watcher]) -> MethodTable:
    """The same methods, looked at; where there is nobody to look, themselves."""
    if not watchers:
        return table
    methods = {name: _watch(method, watchers) for name, method in table.methods.items()}
    return replace(table, methods=methods)


def _watch(method: Method, watchers: Sequence[Watcher]) -> Method:
    match method:
        case BatchMethod(handle):
            return BatchMethod(_watch_batch(handle, watchers))
        case UnaryMethod(handle):
            return UnaryMethod(_watch_unary(handle, watchers))
        case StreamMethod(handle, stop):
            return StreamMethod(_watch_stream(handle, watchers), stop)


def _watch_batch(handle: BatchHandler, watchers: Sequence[Watcher]) -> BatchHandler:
    def answer(calls: Sequence[Call]) -> Sequence[Reply | None]:
        seen = [WatchedCall(call, watchers) for call in calls]
        try:
            replies = handle(seen)
        except Exception as error:
            for call in seen:
                call.over(error)
            raise
        for call, reply in zip(seen, replies, strict=True):
            if reply is not None:
                call.over(reply)
        return replies

    return answer


def _watch_unary(handle: UnaryHandler, watchers: Sequence[Watcher]) -> UnaryHandler:
    async def answer(call: Call) -> bytes:
        seen = WatchedCall(call, watchers)
        try:
            reply = await handle(seen)
        except (Exception, asyncio.CancelledError) as error:
            seen.over(error)
            raise
        seen.over(reply)
        return reply

    return answer


def _watch_stream(handle: StreamHandler, watchers: Sequence[Watcher]) -> StreamHandler:
    async def answer(contents: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        seen = WatchedCall(call, watchers)
        try:
            async for reply in handle(contents, seen):
                yield reply
        except (Exception, asyncio.CancelledError, GeneratorExit) as error:
            seen.over(error)
            raise
        seen.over(b"")

    return answer
