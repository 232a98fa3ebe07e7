"""ActStream against the real service: the same decisions as Act's, over one call."""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from inference_process import InferenceProcess
from tiny_policies import CARTPOLE, dense_model, linear_model, publish, random_layers
from transports import TRANSPORTS

from services.common.action_space import Discrete
from services.common.registry import PolicyRegistry
from tutelage import AsyncClient, Client
from tutelage.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1 import policy_pb2_grpc
from tutelage.v1.array_pb2 import Array

StartService = Callable[..., InferenceProcess]
RIGHT, LEFT = [0.0, 0.0, 0.1, 0.0], [0.0, 0.0, -0.1, 0.0]
WIDE = CARTPOLE.model_copy(update={"action": Discrete(n=6)})
VECTOR = Array(values=RIGHT)


@pytest.fixture(scope="module", params=TRANSPORTS)
def service(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[InferenceProcess]:
    folder: Path = tmp_path_factory.mktemp("streams")
    registry = PolicyRegistry(str(folder / "policies"))
    publish(registry, linear_model())
    publish(registry, linear_model((100.0, 0.0)), alias="canary")
    wide = dense_model(random_layers([4, 64, 64, 6]))
    publish(registry, wide, policy="wide", spec=WIDE)
    process = InferenceProcess(
        folder / "policies", folder / "log", inference_transport=request.param
    )
    yield process
    assert process.stop() == 0
    assert process.records("call failed") == []


@pytest.fixture
def client(service: InferenceProcess) -> Client:
    return service.client


class RawStream:
    """ActStream message by message."""

    def __init__(self, service: InferenceProcess) -> None:
        self._channel = grpc.insecure_channel(service.address)
        self._requests: queue.SimpleQueue[pb.ActRequest | None] = queue.SimpleQueue()
        stub = policy_pb2_grpc.PolicyServiceStub(self._channel)
        self.call = stub.ActStream(iter(self._requests.get, None), timeout=20)

    def ask(self, **request: Any) -> pb.ActResponse:
        self.send(**request)
        return next(self.call)

    def send(self, **request: Any) -> None:
        self._requests.put(pb.ActRequest(**request))

    def finish(self) -> None:
        self._requests.put(None)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def raw(service: InferenceProcess) -> Iterator[RawStream]:
    stream = RawStream(service)
    yield stream
    stream.close()


def test_a_stream_decides_as_act_does(client: Client) -> None:
    generator = np.random.default_rng(0)
    mask = [True, False, True, True, False, True]
    how: dict[str, Any] = {"mask": mask, "probabilities": True, "value": True}
    with client.stream(policy="wide") as stream:
        for seed in range(30):
            observation = generator.normal(size=4).astype(np.float32)
            for ways in ({"sample": True, "seed": seed, "temperature": 2.0}, {}):
                over, alone = (
                    stream.act(observation, **how, **ways),
                    client.act(observation, policy="wide", **how, **ways),
                )
                assert (over.action, over.seed, over.value) == (
                    alone.action,
                    alone.seed,
                    alone.value,
                )
                assert over.probabilities.tolist() == alone.probabilities.tolist()
            greedily = stream.act(observation, epsilon=0.5, seed=seed)
            assert greedily == client.act(observation, policy="wide", epsilon=0.5, seed=seed)


def test_the_first_message_says_what_all_are_of(raw: RawStream, service: InferenceProcess) -> None:
    first = raw.ask(policy="cartpole", alias="canary", session="robot-7", observation=VECTOR)
    assert (first.version, first.action.discrete) == (2, 0)
    assert raw.ask(observation=VECTOR).version == 2
    assert raw.ask(policy="cartpole", session="robot-7", observation=VECTOR).version == 2
    raw.finish()
    assert [*raw.call] == []
    assert raw.call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"policy": "wide"}, "policy is 'wide', but the stream began with 'cartpole'"),
        ({"version": 2}, "version is 2, but the stream began with 1"),
        ({"alias": "canary"}, "alias is 'canary', but the stream began with no alias"),
        ({"session": "b"}, "session is 'b', but the stream began with 'a'"),
    ],
)
def test_a_later_message_may_not_be_of_another(
    raw: RawStream, other: dict[str, Any], message: str
) -> None:
    raw.ask(policy="cartpole", version=1, session="a", observation=VECTOR)
    with pytest.raises(grpc.RpcError, match=message) as refused:
        raw.ask(observation=VECTOR, **other)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_many_messages_may_be_under_way(raw: RawStream) -> None:
    raw.send(policy="cartpole", observation=VECTOR)
    for side in [RIGHT, LEFT] * 100:
        raw.send(observation=Array(values=side))
    raw.finish()
    assert [reply.action.discrete for reply in raw.call] == [1, *([1, 0] * 100)]


def test_a_message_that_is_none_ends_the_stream(service: InferenceProcess) -> None:
    with grpc.insecure_channel(service.address) as channel:
        call = channel.stream_stream("/tutelage.v1.PolicyService/ActStream")
        replies = call(iter([b"\xff\xff\xff"]), timeout=20)
        with pytest.raises(grpc.RpcError, match="not what ActStream takes") as refused:
            next(replies)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert [*call(iter([]), timeout=20)] == []


def test_after_an_error_the_next_decision_opens_another_call(client: Client) -> None:
    with client.stream(policy="cartpole") as stream:
        assert stream.act(RIGHT).action == 1
        with pytest.raises(InvalidInput, match=r"shape \[3\], expected \[4\]"):
            stream.act([1, 2, 3])
        assert stream.act(LEFT).action == 0
    with client.stream(policy="lander") as stream, pytest.raises(NotFound, match="no policy"):
        stream.act(RIGHT)


def test_a_stream_that_was_never_used_is_closed(client: Client) -> None:
    with client.stream(policy="cartpole"):
        pass


async def test_asyncio_has_streams_too(service: InferenceProcess) -> None:
    async with AsyncClient(service.address) as client:
        streams = [client.stream(policy="cartpole") for _ in range(5)]
        for side, action in ((RIGHT, 1), (LEFT, 0)) * 3:
            decisions = await asyncio.gather(*(stream.act(side) for stream in streams))
            assert [decision.action for decision in decisions] == [action] * 5
        with pytest.raises(InvalidInput, match=r"shape \[3\], expected \[4\]"):
            await streams[0].act([1, 2, 3])
        assert (await streams[0].act(LEFT)).action == 0
        for stream in streams:
            await stream.close()
        async with client.stream(policy="lander") as stream:
            with pytest.raises(NotFound, match="no policy"):
                await stream.act(RIGHT)


def test_a_service_that_does_not_answer_in_time(service: InferenceProcess) -> None:
    with Client(service.address) as client, client.stream(policy="cartpole") as stream:
        assert stream.act(RIGHT).action == 1
        service.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceeded):
                stream.act(RIGHT, timeout_s=0.3)
        finally:
            service.process.send_signal(signal.SIGCONT)
        assert stream.act(LEFT, timeout_s=10).action == 0


async def test_the_same_from_asyncio(service: InferenceProcess) -> None:
    async with AsyncClient(service.address) as client, client.stream(policy="cartpole") as stream:
        assert (await stream.act(RIGHT)).action == 1
        service.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceeded):
                await stream.act(RIGHT, timeout_s=0.3)
        finally:
            service.process.send_signal(signal.SIGCONT)
        assert (await stream.act(LEFT, timeout_s=10)).action == 0


def test_nobody_there_is_unavailable() -> None:
    refused = pytest.raises((Unavailable, DeadlineExceeded))
    with Client("127.0.0.1:1") as client, client.stream() as stream, refused:
        stream.act(RIGHT, timeout_s=1.0)


def test_a_service_that_is_told_to_stop_ends_streams_and_loses_no_decision(
    start_service, registry: PolicyRegistry
) -> None:
    publish(registry, linear_model())
    first, second = start_service(grace_s=20), start_service()
    with Client(f"{first.address},{second.address}") as client:
        streams = [client.stream(policy="cartpole") for _ in range(6)]
        asked = 0

        def ask() -> None:
            nonlocal asked
            for stream in streams:
                assert stream.act(RIGHT).action == 1
                asked += 1

        ask()
        began = time.monotonic()
        stopping = threading.Thread(target=first.process.terminate)
        stopping.start()
        while first.process.poll() is None:
            ask()
        stopping.join()
        ask()
        assert first.process.wait() == 0
        assert time.monotonic() - began < 15  # it did not wait for the streams
        for stream in streams:
            stream.close()
    assert asked >= 12
