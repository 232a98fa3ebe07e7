"""Tables of methods on the native transport: C++ owns the connections (see services/transport/).

One thread takes all calls that wait and answers them batch by batch; a call that comes while it
is idle is answered in the thread that brought it. What happens to calls that are answered one by
one, or message by message, another thread tells to the event loop.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import tutelage_transport as transport
from services.common.server.calls import BatchMethod, Method, MethodTable, Reply, UnaryMethod
from services.common.server.errors import Outcomes, to_status

MOST_AT_ONCE = 256  # calls of one batch, so that the first of them does not wait for too many
_KINDS = {BatchMethod: 0, UnaryMethod: 1}
_STREAM = 2
_CALL, _MESSAGE, _END, _WRITTEN, _DONE = range(5)
Status = tuple[int, str, bytes]


class NativeTransport:
    """Serves tables of methods. Made inside an event loop.

    Args:
        options: see `transport.Server`: arguments, limits, TLS.

    Raises:
        RuntimeError: when the address cannot be had.
    """

    def __init__(self, address: str, tables: Sequence[MethodTable], **options: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._methods: Mapping[str, Method] = {
            f"/{table.name}/{name}": method
            for table in tables
            for name, method in table.methods.items()
        }
        self._outcomes = {path: Outcomes(path) for path in self._methods}
        self._open: dict[int, _OpenCall] = {}
        self._server = transport.Server(
            address,
            methods={path: _KINDS.get(type(m), _STREAM) for path, m in self._methods.items()},
            answer=lambda call, reply: self._finish(call.method, [call], [reply]),  # type: ignore[list-item]
            handle=self._handle,
            **options,
        )
        # A thread of the server's must not meet an interpreter that is at its end.
        self._shutdown = self._server.shutdown
        atexit.register(self._shutdown, 0)
        self.port = self._server.port
        _LOST.transports.add(self)
        self._threads = [
            threading.Thread(target=self._take, name="grpc-batches", daemon=True),
            threading.Thread(target=self._listen, name="grpc-events", daemon=True),
        ]

    def start(self) -> None:
        """Answer calls; those that came already have waited."""
        for thread in self._threads:
            thread.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, and cancel those that are not over after so many seconds."""
        await asyncio.to_thread(self._shutdown, grace_s)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        atexit.unregister(self._shutdown)

    def lost(self) -> tuple[int, int]:
        """Calls so far that there was no room for, and those whose callers left too early."""
        return self._server.refused, self._server.dropped

    def _take(self) -> None:
        while calls := self._server.take(MOST_AT_ONCE):
            self._handle(calls)

    def _handle(self, calls: Sequence[transport.Call]) -> None:
        if len(calls) == 1:
            return self._finish(calls[0].method, calls, self._replies(calls[0].method, calls))
        by_method: dict[str, list[transport.Call]] = {}
        for call in calls:
            by_method.setdefault(call.method, []).append(call)
        for path, group in by_method.items():
            self._finish(path, group, self._replies(path, group))

    def _replies(self, path: str, calls: Sequence[transport.Call]) -> Sequence[Reply | None]:
        method = self._methods[path]
        assert isinstance(method, BatchMethod)
        try:
            return method.handle(calls)
        except Exception as error:  # noqa: BLE001 - whatever it is, all of them are answered
            return [error] * len(calls)

    def _finish(
        self, path: str, calls: Sequence[transport.Call], replies: Sequence[Reply | None]
    ) -> None:
        answers = [
            _encoded(reply, path) if isinstance(reply, Exception) else reply for reply in replies
        ]
        self._server.reply(calls, answers)
        now, outcomes = time.monotonic(), self._outcomes[path]
        took = [now - c.arrived for c, a in zip(calls, answers, strict=True) if a is not None]
        failed = [answer[0] for answer in answers if type(answer) is tuple]
        outcomes.took(took)
        outcomes.count(0, len(took) - len(failed))
        for code in failed:
            outcomes.count(code)

    def _listen(self) -> None:
        while events := self._server.events():
            self._loop.call_soon_threadsafe(self._hear, events)

    def _hear(self, events: list[tuple[int, int, transport.Call | bytes | None]]) -> None:
        for what, number, payload in events:
            if isinstance(payload, transport.Call):
                self._open[number] = _OpenCall(payload)
                self._open[number].run(self._answer(self._open[number]))
            elif what == _DONE:
                self._open.pop(number).leave()
            elif what == _WRITTEN:
                self._open[number].written.set()
            else:
                self._open[number].messages.put_nowait(payload)

    async def _answer(self, opened: _OpenCall) -> None:
        call = opened.call
        method = self._methods[call.method]
        try:
            if isinstance(method, UnaryMethod):
                return self._finish(call.method, [call], [await method.handle(call)])
            assert not isinstance(method, BatchMethod)
            async for content in method.handle(opened.requests(), call):
                await opened.write(content)
            await opened.written.wait()
            call.finish(0, "", b"")
            self._outcomes[call.method].count(0)
        except Exception as error:  # noqa: BLE001 - whatever it is, the call is answered
            await opened.written.wait()
            self._finish(call.method, [call], [error])


class _Lost(Collector):
    """Calls that reached no handler, for Prometheus: only the transport knows of them."""

    def __init__(self) -> None:
        self.transports: weakref.WeakSet[NativeTransport] = weakref.WeakSet()

    def collect(self) -> Iterator[Metric]:
        """As in Collector."""
        lost = [transport.lost() for transport in self.transports]
        said = "Calls that there was no room for."
        yield CounterMetricFamily("grpc_server_refused", said, sum(n for n, _ in lost))
        said = "Calls whose callers left before a handler took them."
        yield CounterMetricFamily("grpc_server_dropped", said, sum(n for _, n in lost))


_LOST = _Lost()
REGISTRY.register(_LOST)


class _OpenCall:
    """A call that is answered in the event loop, until it is over."""

    def __init__(self, call: transport.Call) -> None:
        self.call = call
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.written = asyncio.Event()  # whether no message is on its way
        self.written.set()
        self._task: asyncio.Task[None] | None = None

    def run(self, answer: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(answer)

    def leave(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def requests(self) -> AsyncIterator[bytes]:
        """The caller's messages. Each is asked for in its time, so that a fast sender waits."""
        while True:
            self.call.read()
            content = await self.messages.get()
            if content is None:
                return
            yield content

    async def write(self, content: bytes) -> None:
        """Send a message once a slow reader has made room for it: the one before is written."""
        await self.written.wait()
        self.written.clear()
        self.call.write(content)


def _encoded(error: Exception, path: str) -> Status:
    status = to_status(error, path)
    return status.code, status.message, status.SerializeToString()
