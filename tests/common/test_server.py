"""The gRPC server every service has: errors as statuses, health, drain, limits.

Calls go to a stand-in for TrainingService, whose GetRun fails as its run_id says.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY
from transports import WHY_NOT

from services.common import errors
from services.common.ports import free_port
from services.common.server import ServerOptions, Service, run_service
from services.common.server.bootstrap import open_server
from services.common.server.calls import Call, MethodTable, StreamMethod, unary
from tutelage.errors import from_rpc_error
from tutelage.v1 import training_pb2 as pb
from tutelage.v1 import training_pb2_grpc as pb_grpc

NAME = "tutelage.v1.TrainingService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Diverged(errors.TutelageError):
    """Of a service's own; the client does not know it."""


def fail(name: str) -> None:
    """Raise the error of that name."""
    if name == "Diverged":
        raise Diverged("the loss became NaN")
    if name == "bug":
        raise RuntimeError("password=secret")
    if name == "long":
        raise errors.NotFound("𝔘" * 100_000)
    raise getattr(errors, name)(f"{name} is what happened: ü")


class StandIn(pb_grpc.TrainingServiceServicer):
    """Fails as asked; GetRun "slow" waits until let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = asyncio.Event(), asyncio.Event()

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:  # noqa: N802
        if request.run_id == "slow":
            self.entered.set()
            await self.let_go.wait()
        elif request.run_id == "abort":
            await context.abort(grpc.StatusCode.ABORTED, "as asked")
        elif request.run_id:
            fail(request.run_id)
        return pb.GetRunResponse()

    async def WatchRun(  # noqa: N802
        self, request: pb.WatchRunRequest, context: Any
    ) -> AsyncIterator[pb.WatchRunResponse]:
        yield pb.WatchRunResponse()
        if request.run_id:
            fail(request.run_id)


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture(params=["servicer on aio", "table on aio", "table on native"])
def kind(request: pytest.FixtureRequest) -> str:
    if WHY_NOT and "native" in request.param:
        pytest.skip(WHY_NOT)
    return str(request.param)


@pytest.fixture
def service(stand_in: StandIn, kind: str) -> Service | MethodTable:
    """The stand-in as generated code adds it to grpc.aio, or as a table of methods."""
    if kind == "servicer on aio":
        return Service(
            NAME, lambda server: pb_grpc.add_TrainingServiceServicer_to_server(stand_in, server)
        )

    async def watch(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for content in requests:
            request = pb.WatchRunRequest.FromString(content)
            async for reply in stand_in.WatchRun(request, call):
                yield reply.SerializeToString()

    get = unary(pb.GetRunRequest, stand_in.GetRun)
    return MethodTable(NAME, {"GetRun": get, "WatchRun": StreamMethod(watch)})


@pytest.fixture
def transport(kind: str) -> str:
    return kind.rsplit(" ", 1)[-1]


@pytest.fixture
async def channel(
    service: Service | MethodTable, transport: str
) -> AsyncIterator[grpc.aio.Channel]:
    options = ServerOptions("127.0.0.1:0", max_message_bytes=10_000, transport=transport)
    server = open_server([service], options)
    await server.start()
    await server.set_ready()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
    await server.stop()


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value


async def get_run(channel: grpc.aio.Channel, run_id: str) -> grpc.aio.AioRpcError:
    stub = pb_grpc.TrainingServiceStub(channel)
    return await failure(stub.GetRun(pb.GetRunRequest(run_id=run_id)))


def reason(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """Domain and reason of the error's ErrorInfo."""
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.domain, info.reason


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("InvalidInput", grpc.StatusCode.INVALID_ARGUMENT),
        ("InvalidConfig", grpc.StatusCode.INVALID_ARGUMENT),
        ("NotFound", grpc.StatusCode.NOT_FOUND),
        ("AlreadyExists", grpc.StatusCode.ALREADY_EXISTS),
        ("PreconditionFailed", grpc.StatusCode.FAILED_PRECONDITION),
        ("ResourceExhausted", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("StorageFull", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("Unavailable", grpc.StatusCode.UNAVAILABLE),
        ("ReplayUnavailable", grpc.StatusCode.UNAVAILABLE),
        ("DataCorrupted", grpc.StatusCode.DATA_LOSS),
        ("ModelRejected", grpc.StatusCode.DATA_LOSS),
        ("ReplayDataLost", grpc.StatusCode.DATA_LOSS),
        ("TutelageError", grpc.StatusCode.UNKNOWN),
    ],
)
async def test_each_error_has_its_status_and_comes_back_as_itself(
    channel: grpc.aio.Channel, name: str, code: grpc.StatusCode
) -> None:
    error = await get_run(channel, name)
    assert error.code() == code
    assert error.details() == f"{name} is what happened: ü"
    assert reason(error) == ("tutelage", name)
    if name != "TutelageError":
        assert type(from_rpc_error(error)) is getattr(errors, name)


async def test_an_error_of_a_services_own_says_its_name(channel: grpc.aio.Channel) -> None:
    error = await get_run(channel, "Diverged")
    assert error.code() == grpc.StatusCode.UNKNOWN
    assert reason(error) == ("tutelage", "Diverged")


async def test_what_was_not_expected_is_not_told(channel: grpc.aio.Channel) -> None:
    error = await get_run(channel, "bug")
    assert error.code() == grpc.StatusCode.INTERNAL
    assert error.details() == "internal error; the service's log has the details"
    assert "secret" not in str(error.trailing_metadata())


async def test_a_long_message_keeps_its_status(channel: grpc.aio.Channel) -> None:
    error = await get_run(channel, "long")
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert (error.details() or "").startswith("𝔘𝔘𝔘")
    assert reason(error) == ("tutelage", "NotFound")


@pytest.mark.parametrize("kind", ["servicer on aio"])
async def test_a_handlers_own_abort_is_left_alone(channel: grpc.aio.Channel) -> None:
    error = await get_run(channel, "abort")
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "as asked")


async def test_a_stream_that_fails_gives_what_came_before(channel: grpc.aio.Channel) -> None:
    call = pb_grpc.TrainingServiceStub(channel).WatchRun(pb.WatchRunRequest(run_id="NotFound"))
    assert await call.read() == pb.WatchRunResponse()
    error = await failure(call.read())
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert reason(error) == ("tutelage", "NotFound")


async def test_what_a_stream_did_not_expect_is_not_told(channel: grpc.aio.Channel) -> None:
    call = pb_grpc.TrainingServiceStub(channel).WatchRun(pb.WatchRunRequest(run_id="bug"))
    await call.read()
    error = await failure(call.read())
    assert (error.code(), "secret" in str(error)) == (grpc.StatusCode.INTERNAL, False)


async def test_bytes_that_are_no_request_are_invalid(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(f"/{NAME}/GetRun")
    error = await failure(call(b"\xff\xff\xff"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "the request is not what GetRun takes" in (error.details() or "")


async def test_an_oversized_message_exhausts_a_resource(channel: grpc.aio.Channel) -> None:
    error = await get_run(channel, "x" * 20_000)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_method_that_is_not_there_is_unimplemented(channel: grpc.aio.Channel) -> None:
    error = await failure(channel.unary_unary(f"/{NAME}/Ghost")(b""))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_calls_are_counted_by_method_and_status(channel: grpc.aio.Channel) -> None:
    def count(code: str) -> float:
        labels = {"grpc_method": f"/{NAME}/GetRun", "grpc_code": code}
        return REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0.0

    before = count("OK"), count("NOT_FOUND")
    await pb_grpc.TrainingServiceStub(channel).GetRun(pb.GetRunRequest())
    await get_run(channel, "NotFound")
    assert (count("OK"), count("NOT_FOUND")) == (before[0] + 1, before[1] + 1)


async def test_a_taken_port_is_one_clear_error(service: Service, transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(errors.ResourceExhausted, match=f"cannot listen on {address}"):
            await run_service([service], ServerOptions(address, transport=transport))


async def test_a_servers_own_port_is_taken_for_a_second_one(
    service: Service, transport: str
) -> None:
    first = open_server([service], ServerOptions("127.0.0.1:0", transport=transport))
    await first.start()
    with pytest.raises(errors.ResourceExhausted, match="the port is taken"):
        open_server([service], ServerOptions(f"127.0.0.1:{first.port}", transport=transport))
    await first.stop()


async def health_of(channel: grpc.aio.Channel, name: str = NAME) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110 - asks another side
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_health_follows_the_services_life(
    service: Service, stand_in: StandIn, number: int, transport: str
) -> None:
    address, ready = f"127.0.0.1:{free_port()}", asyncio.Event()
    options = ServerOptions(address, grace_s=30, drain_s=0.2, transport=transport)
    serving = asyncio.create_task(run_service([service], options, until_ready=ready.wait))
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        assert (await health_of(channel), await health_of(channel, "")) == (
            NOT_SERVING,
            NOT_SERVING,
        )
        ready.set()
        await until(lambda: _is(channel, SERVING))
        assert await health_of(channel, "") == SERVING
        stub = pb_grpc.TrainingServiceStub(channel)
        slow = asyncio.create_task(_get(stub, "slow"))
        await stand_in.entered.wait()
        signal.raise_signal(number)
        await until(lambda: _is(channel, NOT_SERVING))
        assert not serving.done()
        stand_in.let_go.set()
        # The call under way when the signal came is answered.
        assert await slow == pb.GetRunResponse()
        await serving


async def _is(channel: grpc.aio.Channel, status: int) -> bool:
    return await health_of(channel) == status


async def _get(stub: Any, run_id: str) -> pb.GetRunResponse:
    return await stub.GetRun(pb.GetRunRequest(run_id=run_id))
