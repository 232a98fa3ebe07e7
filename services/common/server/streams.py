"""Streams whose messages are answered one by one, and that end when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from services.common.server.awaited import AwaitedCall
from services.common.server.calls import Call, Metadata


class StreamMessage(AwaitedCall):
    """A message of a stream as a call of its own."""

    __slots__ = ("_stream",)

    def __init__(self, content: bytes, stream: Call) -> None:
        super().__init__(content)
        self._stream = stream

    @property
    def method(self) -> str:
        """As in `Call`."""
        return self._stream.method

    @property
    def metadata(self) -> Metadata:
        """As in `Call`."""
        return self._stream.metadata

    @property
    def peer(self) -> str:
        """As in `Call`."""
        return self._stream.peer

    @property
    def deadline(self) -> float:
        """As in `Call`."""
        return self._stream.deadline


class Streams:
    """All open streams of a method; belongs to one event loop."""

    def __init__(self) -> None:
        self._idle: set[asyncio.Task[object]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Have all of them end, each as soon as what it has brought is answered."""
        self._stopped = True
        for task in self._idle:
            task.cancel()

    async def next(self, messages: AsyncIterator[bytes]) -> bytes | None:
        """A stream's next message; None when there is none, or no more is to be answered."""
        task = asyncio.current_task()
        assert task is not None
        if self._stopped:
            return None
        self._idle.add(task)
        try:
            return await anext(messages, None)
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            task.uncancel()
            return None
        finally:
            self._idle.discard(task)
