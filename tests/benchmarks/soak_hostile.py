"""Callers that mean no good, one kind after another, and what the service must say to each."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc

from tutelage.v1 import policy_pb2 as pb
from tutelage.v1.array_pb2 import Array

ACT = "/tutelage.v1.PolicyService/Act"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0x0, 0x1, 0x4, 0x6
END_STREAM, END_HEADERS = 0x1, 0x4
INITIAL_WINDOW_SIZE = 0x4
HELD_S = 3.0
OVERSIZED = 5 << 20
GARBAGE = random.Random(0)


@dataclass
class Hostility:
    """What was done, by kind, and the answers that were other than they must be."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)


async def harass(address: str, found: Hostility) -> None:
    """Go on until cancelled: connections that are held or broken, and calls that are wrong."""
    host, port = address.rsplit(":", 1)
    held: set[asyncio.Task[None]] = set()
    async with grpc.aio.insecure_channel(address) as channel:
        while True:
            for kind, content in _torn_connections().items():
                task = asyncio.create_task(_hold(host, int(port), content))
                held.add(task)
                task.add_done_callback(held.discard)
                found.done[kind] += 1
            for kind, call in _wrong_calls(channel).items():
                if complaint := await call():
                    found.wrong[f"{kind}: {complaint}"] += 1
                found.done[kind] += 1
            await asyncio.sleep(0.5)


async def _hold(host: str, port: int, content: bytes) -> None:
    """Send this, read nothing, and vanish with a reset after a while."""
    try:
        _, writer = await asyncio.open_connection(host, port, limit=1024)
        writer.write(content)
        await asyncio.sleep(HELD_S)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        await writer.wait_closed()
    except OSError:
        pass  # the service hung up first, as it may


def _torn_connections() -> dict[str, bytes]:
    request = _message(pb.ActRequest(observation=Array(values=[0, 0, 0, 0])).SerializeToString())
    unread = struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)
    call = _frame(HEADERS, END_HEADERS, 1, _headers())
    return {
        "half-open": PREFACE[:10],
        "garbage": GARBAGE.randbytes(4096),
        "garbage frames": PREFACE + _frame(SETTINGS, 0, 0) + GARBAGE.randbytes(4096),
        "frame without end": PREFACE + _frame(SETTINGS, 0, 0) + b"\xff\xff\xff" + bytes(64),
        "pings": PREFACE + _frame(SETTINGS, 0, 0) + _frame(PING, 0, 0, bytes(8)) * 500,
        "call without end": PREFACE + _frame(SETTINGS, 0, 0) + call + _frame(DATA, 0, 1, b"\x00"),
        "reads nothing": PREFACE
        + _frame(SETTINGS, 0, 0, unread)
        + call
        + _frame(DATA, END_STREAM, 1, request),
    }


def _wrong_calls(channel: grpc.aio.Channel) -> dict[str, Callable[[], Awaitable[str]]]:
    def call(
        content: bytes, expected: grpc.StatusCode, timeout_s: float = 10.0
    ) -> Callable[[], Awaitable[str]]:
        async def ask() -> str:
            try:
                await channel.unary_unary(ACT)(content, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                return "" if error.code() == expected else f"{error.code()} {error.details()}"
            return "answered"

        return ask

    async def cancelled() -> str:
        under_way = channel.unary_unary(ACT)(_act([0, 0, 0, 0]), timeout=10.0)
        await asyncio.sleep(0)
        under_way.cancel()
        return ""

    invalid = grpc.StatusCode.INVALID_ARGUMENT
    return {
        "bytes that are no message": call(b"\xff" * 40, invalid),
        "wrong shape": call(_act([0, 0, 0]), invalid),
        "not a number": call(_act([0, 0, 0, float("nan")]), invalid),
        "unknown policy": call(_act([0, 0, 0, 0], policy="none"), grpc.StatusCode.NOT_FOUND),
        "oversized": call(bytes(OVERSIZED), grpc.StatusCode.RESOURCE_EXHAUSTED),
        "cancelled": cancelled,
    }


def _act(values: list[float], policy: str = "") -> bytes:
    request = pb.ActRequest(policy=policy, observation=Array(values=values, shape=[len(values)]))
    return request.SerializeToString()


def _message(content: bytes) -> bytes:
    return b"\x00" + struct.pack(">I", len(content)) + content


def _frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(content))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + content
    )


def _headers() -> bytes:
    """HPACK literals without indexing, which need no table."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": ACT,
        ":authority": "soak",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b""
    for name, value in fields.items():
        block += b"\x00" + bytes([len(name)]) + name.encode()
        block += bytes([len(value)]) + value.encode()
    return block
