"""Who looks at calls hears once of each what became of it, on both transports."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from google.rpc import code_pb2
from pending_call import PendingCall
from structlog.testing import capture_logs
from transports import TRANSPORTS

from services.common.errors import NotFound
from services.common.server import ServerOptions
from services.common.server.access import Access, Token
from services.common.server.access_log import AccessLog, Allowance
from services.common.server.bootstrap import Server, open_server
from services.common.server.calls import (
    BatchMethod,
    Call,
    MethodTable,
    Reply,
    StreamMethod,
    UnaryMethod,
)
from services.common.server.watching import WatchedCall, note, watched

NAME = "test.v1.Service"


class Onlooker:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.began_: list[str] = []
        self.ended_: list[tuple[str, str, dict[str, object]]] = []
        self.changed = threading.Condition()

    def began(self, call: WatchedCall) -> None:
        assert call.peer
        self.began_.append(_short(call))

    def ended(self, call: WatchedCall, code: int, error: Exception | None) -> None:
        with self.changed:
            self.ended_.append((_short(call), code_pb2.Code.Name(code), call.notes))
            self.changed.notify_all()

    async def wait(self, count: int) -> list[tuple[str, str, dict[str, object]]]:
        def enough() -> bool:
            with self.changed:
                return self.changed.wait_for(lambda: len(self.ended_) >= count, 20)

        assert await asyncio.to_thread(enough)
        return self.ended_


def _short(call: Call) -> str:
    return call.method.rsplit("/", 1)[-1]


def echo(calls: Sequence[Call]) -> Sequence[Reply | None]:
    if any(call.content == b"bug" for call in calls):
        raise RuntimeError
    return [_echo(call) for call in calls]


def _echo(call: Call) -> Reply | None:
    note(call, said=call.content.decode())
    if call.content == b"fail":
        return NotFound("no such thing")
    if call.content == b"late":
        threading.Timer(0.05, call.answer, [b"at last"]).start()
        return None
    return None if call.content == b"forget" else call.content


async def wait(call: Call) -> bytes:
    await asyncio.sleep(float(call.content))
    return b""


async def chat(contents: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    async for content in contents:
        if content == b"fail":
            raise NotFound("no such thing")
        yield content


@pytest.fixture
def onlooker() -> Onlooker:
    return Onlooker()


@pytest.fixture(params=TRANSPORTS)
async def server(onlooker: Onlooker, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    methods = {"Echo": BatchMethod(echo), "Wait": UnaryMethod(wait), "Chat": StreamMethod(chat)}
    table = watched(MethodTable(NAME, methods), [onlooker])
    server = open_server([table], ServerOptions("127.0.0.1:0", transport=request.param, grace_s=0))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.mark.parametrize(
    ("said", "code"),
    [(b"x", "OK"), (b"fail", "NOT_FOUND"), (b"late", "OK"), (b"bug", "INTERNAL")],
)
async def test_calls_of_batches(
    channel: grpc.aio.Channel, onlooker: Onlooker, said: bytes, code: str
) -> None:
    call = channel.unary_unary(f"/{NAME}/Echo")(said, timeout=20)
    assert (await call.code()).name == code
    ((method, ended, notes),) = await onlooker.wait(1)
    assert (method, ended) == ("Echo", code)
    assert notes == ({} if said == b"bug" else {"said": said.decode()})


async def test_a_call_that_nobody_answers_is_over_when_it_is_let_go_of(
    channel: grpc.aio.Channel, onlooker: Onlooker
) -> None:
    call = channel.unary_unary(f"/{NAME}/Echo")(b"forget", timeout=0.1)
    assert (await call.code()).name in ("DEADLINE_EXCEEDED", "INTERNAL")
    ((_, ended, _),) = await onlooker.wait(1)
    assert ended in ("CANCELLED", "DEADLINE_EXCEEDED")


async def test_calls_one_by_one(channel: grpc.aio.Channel, onlooker: Onlooker) -> None:
    assert await channel.unary_unary(f"/{NAME}/Wait")(b"0", timeout=20) == b""
    waits = channel.unary_unary(f"/{NAME}/Wait")(b"60", timeout=20)
    await asyncio.sleep(0.2)
    waits.cancel()
    assert [code for _, code, _ in await onlooker.wait(2)] == ["OK", "CANCELLED"]


async def test_streams(channel: grpc.aio.Channel, onlooker: Onlooker) -> None:
    for last in (b"a", b"fail"):
        stream = channel.stream_stream(f"/{NAME}/Chat")(timeout=20)
        await stream.write(last)
        await stream.done_writing()
        await stream.code()
    assert [code for _, code, _ in await onlooker.wait(2)] == ["OK", "NOT_FOUND"]
    assert onlooker.began_ == ["Chat", "Chat"]


def test_where_nobody_looks_the_methods_are_the_same() -> None:
    table = MethodTable(NAME, {"Echo": BatchMethod(echo)})
    assert watched(table, []) is table


def see(log: AccessLog, content: bytes, token: str = "") -> None:
    pending = PendingCall(content)
    if token:
        pending.metadata = [("authorization", f"Bearer {token}")]
    call = WatchedCall(pending, [log])
    note(call, policy="cartpole", version=3)
    call.over(NotFound("no such thing") if content == b"fail" else content)


def test_a_line_says_who_asked_what_and_what_became_of_it() -> None:
    token = "a-token-that-nobody-may-see"
    import hashlib

    known = Token(hashlib.sha256(token.encode()).digest(), frozenset({"act", "report"}))
    with capture_logs() as lines:
        log = AccessLog(1.0, 10, Access((known,)))
        see(log, b"x", token)
        see(log, b"fail")
        log.close(20)
    first, second = lines
    assert first.pop("ms") >= 0
    assert first == {
        "event": "call",
        "log_level": "info",
        "method": "/tutelage.v1.PolicyService/Act",
        "status": "OK",
        "peer": "ipv4:127.0.0.1:1",
        "roles": ["act", "report"],
        "policy": "cartpole",
        "version": 3,
        "rate": 1.0,
    }
    assert (second["status"], second["error"]) == ("NOT_FOUND", "NotFound")
    assert second["message"] == "no such thing"
    assert "roles" not in second
    assert token not in str(lines)


def test_failures_have_a_line_whatever_the_rate_up_to_so_many_a_second() -> None:
    with capture_logs() as lines:
        log = AccessLog(1e-12, 3, Access())
        for _ in range(50):
            see(log, b"x")
            see(log, b"fail")
        log.close(20)
    assert 3 <= len(lines) <= 6  # of one second, or of two
    assert {line["status"] for line in lines} == {"NOT_FOUND"}


def test_those_left_out_are_counted_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    allowance = Allowance(2)
    assert [allowance.take() for _ in range(5)] == [0, 0, None, None, None]
    now = 101.0
    assert [allowance.take() for _ in range(2)] == [3, 0]
