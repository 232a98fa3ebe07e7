"""What both transports must stand: cancelled calls, deadlines, streams, hostile clients.

Each test has a server of its own with three methods: Echo is answered in batches, Wait one by
one, Chat message by message.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import pytest
from prometheus_client import REGISTRY
from transports import TRANSPORTS

from services.common.errors import NotFound
from services.common.server import ServerOptions
from services.common.server.bootstrap import Server, open_server
from services.common.server.calls import (
    BatchMethod,
    Call,
    MethodTable,
    Reply,
    StreamMethod,
    UnaryMethod,
)

NAME = "test.v1.Service"
LIMIT = 50_000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class StandIn:
    """Answers with the request's bytes; "fail" fails, "late" is answered by another thread."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.calls: list[Call] = []
        self.open = threading.Event()  # Echo answers only while it is set
        self.open.set()
        self.entered = threading.Event()
        self.waiting = 0
        self.left = 0
        self.produced = 0

    def echo(self, calls: Sequence[Call]) -> Sequence[Reply | None]:
        self.calls += calls
        self.batches.append([call.content for call in calls])
        self.entered.set()
        assert self.open.wait(20)
        if any(call.content == b"bug" for call in calls):
            raise RuntimeError("password=secret")
        return [self._reply(call) for call in calls]

    def _reply(self, call: Call) -> Reply | None:
        if call.content == b"fail":
            return NotFound("no such thing")
        if call.content == b"late":
            threading.Timer(0.05, call.answer, [b"at last"]).start()
            return None
        if call.content == b"late failure":
            threading.Timer(0.05, call.answer, [NotFound("not even then")]).start()
            return None
        return call.content

    async def wait(self, call: Call) -> bytes:
        self.waiting += 1
        try:
            await asyncio.sleep(float(call.content))
        except asyncio.CancelledError:
            self.left += 1
            raise
        return b"waited"

    async def chat(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        self.calls.append(call)
        try:
            async for content in requests:
                if content == b"fail":
                    raise NotFound("no such thing")
                if content == b"flood":
                    while True:
                        self.produced += 1
                        yield bytes(10_000)
                yield content
        finally:  # whether it sees the caller's end first, or is cancelled
            self.left += 1


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture(params=TRANSPORTS)
async def server(stand_in: StandIn, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    methods = {
        "Echo": BatchMethod(stand_in.echo),
        "Wait": UnaryMethod(stand_in.wait),
        "Chat": StreamMethod(stand_in.chat),
    }
    options = ServerOptions(
        "127.0.0.1:0",
        max_message_bytes=LIMIT,
        transport=request.param,
        max_waiting_calls=8,
        grace_s=0,
    )
    server = open_server([MethodTable(NAME, methods)], options)
    await server.start()
    await server.set_ready()
    yield server
    await server.stop()


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


def echo(channel: grpc.aio.Channel, content: bytes, **how: object) -> grpc.aio.UnaryUnaryCall:
    return channel.unary_unary(f"/{NAME}/Echo")(content, **{"timeout": 20, **how})


def wait(channel: grpc.aio.Channel, seconds: float, **how: object) -> grpc.aio.UnaryUnaryCall:
    return channel.unary_unary(f"/{NAME}/Wait")(str(seconds).encode(), **{"timeout": 20, **how})


def chat(channel: grpc.aio.Channel, **how: object) -> grpc.aio.StreamStreamCall:
    return channel.stream_stream(f"/{NAME}/Chat")(**{"timeout": 20, **how})


async def code(call: grpc.aio.UnaryUnaryCall) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_calls_are_answered_in_batches(stand_in: StandIn, channel: grpc.aio.Channel) -> None:
    contents = [f"{i}".encode() for i in range(6)]
    assert await asyncio.gather(*(echo(channel, content) for content in contents)) == contents
    assert sorted(content for batch in stand_in.batches for content in batch) == contents


async def test_each_call_of_a_batch_has_its_own_outcome(channel: grpc.aio.Channel) -> None:
    outcomes = await asyncio.gather(
        *(echo(channel, c) for c in (b"1", b"fail", b"late", b"late failure", b"")),
        return_exceptions=True,
    )
    assert (outcomes[0], outcomes[2], outcomes[4]) == (b"1", b"at last", b"")
    for failed, details in ((outcomes[1], "no such thing"), (outcomes[3], "not even then")):
        assert isinstance(failed, grpc.aio.AioRpcError)
        assert (failed.code(), failed.details()) == (grpc.StatusCode.NOT_FOUND, details)
        assert "grpc-status-details-bin" in dict(failed.trailing_metadata())


async def test_a_handler_that_breaks_tells_nothing(channel: grpc.aio.Channel) -> None:
    call = echo(channel, b"bug")
    assert await code(call) == grpc.StatusCode.INTERNAL
    assert "secret" not in await call.details()
    assert await echo(channel, b"1") == b"1"


async def test_a_call_knows_its_caller(stand_in: StandIn, channel: grpc.aio.Channel) -> None:
    before = time.monotonic()
    call = chat(channel, metadata=(("trace-bin", b"\0\xff"), ("who", "me")), timeout=15)
    await call.write(b"1")
    assert await call.read() == b"1"
    (seen,) = stand_in.calls
    assert seen.method == f"/{NAME}/Chat"
    metadata = dict(tuple(pair) for pair in seen.metadata)
    assert (metadata["trace-bin"], metadata["who"]) == (b"\0\xff", "me")
    assert before <= seen.arrived <= time.monotonic()
    assert 0 < seen.deadline - time.monotonic() <= 15
    assert not seen.cancelled()
    call.cancel()
    await until(seen.cancelled)


async def test_a_caller_may_wait_for_ever(stand_in: StandIn, channel: grpc.aio.Channel) -> None:
    call = chat(channel, timeout=None)
    await call.write(b"1")
    await call.read()
    assert stand_in.calls[0].deadline == math.inf
    call.cancel()


async def test_a_message_of_many_slices_is_whole(channel: grpc.aio.Channel) -> None:
    content = random.Random(0).randbytes(LIMIT)
    assert await echo(channel, content) == content


async def test_an_oversized_message_is_refused(
    stand_in: StandIn, channel: grpc.aio.Channel
) -> None:
    assert await code(echo(channel, bytes(LIMIT + 1))) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stand_in.batches == []


async def test_a_message_that_swells_is_refused(
    stand_in: StandIn, channel: grpc.aio.Channel
) -> None:
    call = echo(channel, bytes(100 * LIMIT), compression=grpc.Compression.Gzip)
    assert await code(call) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stand_in.batches == []


async def test_a_method_that_is_not_there(channel: grpc.aio.Channel) -> None:
    for path in (f"/{NAME}/Ghost", "/nobody/Echo", "/"):
        assert await code(channel.unary_unary(path)(b"")) == grpc.StatusCode.UNIMPLEMENTED


async def test_cancelled_calls_are_not_handled(
    server: Server, stand_in: StandIn, channel: grpc.aio.Channel
) -> None:
    if hasattr(server, "_server"):
        pytest.skip("grpc.aio has no thread of its own in which a batch could be held up")
    stand_in.open.clear()
    first = asyncio.ensure_future(echo(channel, b"first"))
    await until(stand_in.entered.is_set)
    gone = [asyncio.ensure_future(echo(channel, b"gone")) for _ in range(3)]
    late = echo(channel, b"late, too", timeout=0.2)
    assert await code(late) == grpc.StatusCode.DEADLINE_EXCEEDED
    for call in gone:
        call.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    await asyncio.sleep(0.2)  # for the cancellations to arrive
    kept = asyncio.ensure_future(echo(channel, b"kept"))
    await asyncio.sleep(0.2)
    stand_in.open.set()
    assert await asyncio.gather(first, kept) == [b"first", b"kept"]
    assert stand_in.batches == [[b"first"], [b"kept"]]


async def test_what_does_not_fit_the_queue_is_refused_at_once(
    server: Server, stand_in: StandIn, channel: grpc.aio.Channel
) -> None:
    if hasattr(server, "_server"):
        pytest.skip("grpc.aio leaves the queue to the handler")
    stand_in.open.clear()
    first = asyncio.ensure_future(echo(channel, b"first"))
    await until(stand_in.entered.is_set)
    calls = [asyncio.ensure_future(echo(channel, b"%d" % i)) for i in range(12)]
    await until(lambda: sum(call.done() for call in calls) == 4)
    stand_in.open.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [o for o in outcomes if isinstance(o, grpc.aio.AioRpcError)]
    assert [o.code() for o in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 4
    assert await first == b"first"


async def test_a_waiting_call_ends_with_its_caller(
    stand_in: StandIn, channel: grpc.aio.Channel
) -> None:
    assert await wait(channel, 0.0) == b"waited"
    assert await code(wait(channel, 30.0, timeout=0.1)) == grpc.StatusCode.DEADLINE_EXCEEDED
    gone = wait(channel, 30.0)
    await until(lambda: stand_in.waiting == 3)
    gone.cancel()
    await until(lambda: stand_in.left == 2)


async def test_streams_go_both_ways(channel: grpc.aio.Channel) -> None:
    call = chat(channel)
    for i in range(20):
        await call.write(b"%d" % i)
        assert await call.read() == b"%d" % i
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_a_stream_may_fail_midway(channel: grpc.aio.Channel) -> None:
    call = chat(channel)
    await call.write(b"1")
    assert await call.read() == b"1"
    await call.write(b"fail")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND
    assert "grpc-status-details-bin" in dict(failed.value.trailing_metadata())


async def test_a_stream_ends_with_its_caller(stand_in: StandIn, channel: grpc.aio.Channel) -> None:
    calls = [chat(channel) for _ in range(5)]
    for call in calls:
        await call.write(b"1")
        assert await call.read() == b"1"
        call.cancel()
    await until(lambda: stand_in.left == 5)


async def test_a_slow_reader_holds_up_only_itself(
    server: Server, stand_in: StandIn, channel: grpc.aio.Channel
) -> None:
    address = f"127.0.0.1:{server.port}"
    own = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(address, options=own) as other:
        flood = chat(other)
        await flood.write(b"flood")
        assert await flood.read() == bytes(10_000)
        await asyncio.sleep(0.3)
        produced = stand_in.produced
        await asyncio.sleep(0.3)
        assert stand_in.produced == produced < 2000  # 20 MB: it waits for its reader
        assert await echo(channel, b"1") == b"1"
        flood.cancel()
        await until(lambda: stand_in.left == 1)


async def test_calls_under_way_are_ended_after_the_grace(
    server: Server, channel: grpc.aio.Channel, stand_in: StandIn
) -> None:
    pending = wait(channel, 30.0)
    stream = chat(channel)
    await stream.write(b"1")
    assert await stream.read() == b"1"
    await until(lambda: stand_in.waiting == 1)
    await server.stop()
    assert await code(pending) in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    await until(lambda: stand_in.left == 2)


async def test_strangers_bytes_end_nothing_but_their_connection(
    server: Server, channel: grpc.aio.Channel
) -> None:
    generator = random.Random(0)
    frames = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the start of a TLS handshake
        PREFACE,
        PREFACE + b"\xff" * 200,
        PREFACE + settings_frame() + headers_frame(b"\x80" * 40),  # header index 0
        PREFACE + settings_frame() + frame(0x0, 1, b"data on a stream that is not open"),
        PREFACE + settings_frame() + frame(0x8, 0, struct.pack(">I", 2**31 - 1)) * 3,
        *(PREFACE + settings_frame() + generator.randbytes(300) for _ in range(30)),
        *(generator.randbytes(300) for _ in range(10)),
    ]
    for content in frames:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as stranger:
            stranger.sendall(content)
    assert await echo(channel, b"1") == b"1"


async def test_a_message_cut_short_reaches_no_handler(
    server: Server, stand_in: StandIn, channel: grpc.aio.Channel
) -> None:
    request = PREFACE + settings_frame() + headers_frame(call_headers(), end=False)
    bodies = [
        (b"\0" + struct.pack(">I", 100) + b"only this", False),  # a longer message was promised
        (b"\0" + struct.pack(">I", 100) + b"only this", True),
        (b"\0\0", True),
        (b"", True),
        (b"\x07" + struct.pack(">I", 3) + b"abc", True),  # a flag that is none
    ]
    for body, end in bodies:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as stranger:
            stranger.sendall(request + frame(0x0, 1, body, flags=0x1 if end else 0))
            await asyncio.sleep(0.02)
    assert await echo(channel, b"1") == b"1"
    # Of a call that ends without a message gRPC makes an empty one.
    assert [batch for batch in stand_in.batches if batch != [b""]] == [[b"1"]]


async def test_many_half_open_connections_leave_nothing_behind(
    server: Server, channel: grpc.aio.Channel
) -> None:
    assert await echo(channel, b"1") == b"1"
    before = len(os.listdir("/proc/self/fd"))
    request = PREFACE + settings_frame() + headers_frame(call_headers(), end=False)
    strangers = []
    for i in range(60):
        stranger = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        stranger.sendall(request[: len(request) * (i % 4) // 3])  # nothing, a part, all of it
        strangers.append(stranger)
    assert await echo(channel, b"2") == b"2"
    for stranger in strangers:
        stranger.close()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)
    assert await echo(channel, b"3") == b"3"


async def test_outcomes_are_counted(channel: grpc.aio.Channel) -> None:
    def count(status: str) -> float:
        labels = {"grpc_method": f"/{NAME}/Echo", "grpc_code": status}
        return REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0.0

    def timed() -> float:
        labels = {"grpc_method": f"/{NAME}/Echo"}
        name = "grpc_server_handling_seconds_count"
        return REGISTRY.get_sample_value(name, labels) or 0.0

    before = count("OK"), count("NOT_FOUND"), timed()
    await echo(channel, b"1")
    await echo(channel, b"late")
    await code(echo(channel, b"fail"))
    await until(lambda: timed() == before[2] + 3)
    assert (count("OK"), count("NOT_FOUND")) == (before[0] + 2, before[1] + 1)


def frame(kind: int, stream: int, payload: bytes, flags: int = 0) -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def settings_frame() -> bytes:
    return frame(0x4, 0, b"")


def headers_frame(block: bytes, *, end: bool = True) -> bytes:
    return frame(0x1, 1, block, flags=0x5 if end else 0x4)


def call_headers() -> bytes:
    """A call's headers as literals without indexing (RFC 7541, section 6.2.2)."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{NAME}/Echo",
        ":authority": "test",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(
        b"\0" + bytes([len(key)]) + key.encode() + bytes([len(value)]) + value.encode()
        for key, value in headers.items()
    )
