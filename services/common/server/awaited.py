"""Calls whose replies are awaited in an event loop, gathered for batch handlers turn by turn."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod

from services.common.server.calls import BatchHandler, Metadata, Reply


class AwaitedCall(ABC):
    """A call with a future for its reply; see `Call`."""

    __slots__ = ("_loop", "arrived", "content", "reply")

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.arrived = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[bytes] = self._loop.create_future()

    @property
    @abstractmethod
    def method(self) -> str:
        """As in `Call`."""

    @property
    @abstractmethod
    def metadata(self) -> Metadata:
        """As in `Call`."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """As in `Call`."""

    @property
    @abstractmethod
    def deadline(self) -> float:
        """As in `Call`."""

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


class TurnGatherer:
    """Gathers the calls of one turn of the event loop for a batch handler."""

    def __init__(self, handler: BatchHandler) -> None:
        self._handler = handler
        self._calls: list[AwaitedCall] = []

    def add(self, call: AwaitedCall) -> asyncio.Future[bytes]:
        """Have a call handled together with the others of this turn; its reply."""
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
