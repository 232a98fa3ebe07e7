"""What comes meanwhile is worked on together, by a thread that nothing ends but closing it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import grpc
import pytest
from transports import TRANSPORTS

from services.common.gathering import Gatherer
from services.common.server import ServerOptions
from services.common.server.bootstrap import open_server
from services.common.server.calls import BatchMethod, Call, MethodTable


def test_items_that_come_meanwhile_are_one_batch() -> None:
    begun, go_on, batches = threading.Event(), threading.Event(), list[list[int]]()

    def run(items: list[int]) -> None:
        batches.append(items)
        begun.set()
        assert go_on.wait(10)

    gatherer = Gatherer("test", run, 100)
    assert gatherer.add(0)
    assert begun.wait(10)
    for item in (1, 2, 3):
        assert gatherer.add(item)
    go_on.set()
    gatherer.close(10)
    assert batches == [[0], [1, 2, 3]]


def test_too_many_are_refused() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def run(items: list[int]) -> None:
        begun.set()
        assert go_on.wait(10)

    gatherer = Gatherer("test", run, 2)
    gatherer.add(0)
    assert begun.wait(10)
    assert [gatherer.add(item) for item in (1, 2, 3)] == [True, True, False]
    go_on.set()
    gatherer.close(10)


def test_a_batch_that_fails_does_not_end_it() -> None:
    begun, done = threading.Event(), list[int]()

    def run(items: list[int]) -> None:
        begun.set()
        if 0 in items:
            raise ValueError("no zeros")
        done.extend(items)

    gatherer = Gatherer("test", run, 100)
    gatherer.add(0)
    assert begun.wait(10)  # with no other
    gatherer.add(1)
    gatherer.close(10)
    assert done == [1]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_waits_for_a_batch_that_fails_is_answered(transport: str) -> None:
    def run(calls: list[Call]) -> None:
        raise ValueError("nothing works")

    def give_up(calls: list[Call], error: Exception) -> None:
        for call in calls:
            call.answer(error)

    gatherer = Gatherer[Call]("test", run, 100, give_up)

    def handle(calls: Sequence[Call]) -> list[None]:
        return [None for call in calls if gatherer.add(call)]

    table = MethodTable("test.v1.Service", {"Echo": BatchMethod(handle)})
    server = open_server([table], ServerOptions("127.0.0.1:0", transport=transport, grace_s=0))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary("/test.v1.Service/Echo")(b"", timeout=20)
        assert raised.value.code() == grpc.StatusCode.INTERNAL
        assert raised.value.details() == "internal error; the service's log has the details"
    finally:
        gatherer.close(10)
        await server.stop()
