"""The policy clients against the real service: numpy in and out, deadlines, retries, balancing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from inference_process import InferenceProcess, environment
from tiny_policies import linear_model, publish

from services.common.registry import PolicyRegistry
from tutelage import AsyncClient, Client
from tutelage._channel import target_of
from tutelage.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable

RIGHT = np.array([0, 0, 0.1, 0], dtype=np.float32)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    folder = tmp_path_factory.mktemp("client")
    publish(PolicyRegistry(str(folder / "policies")), linear_model())
    process = InferenceProcess(folder / "policies", folder / "log")
    yield process
    process.stop()


async def test_asyncio_and_blocking_clients_agree(service: InferenceProcess) -> None:
    with Client(service.address) as blocking:
        async with AsyncClient(service.address) as waiting:
            assert await waiting.act(RIGHT, sample=True, seed=3) == blocking.act(
                RIGHT, sample=True, seed=3
            )
            batch = await waiting.act_batch([RIGHT, -RIGHT], probabilities=True)
            assert batch.actions.tolist() == [1, 0]
            assert batch.probabilities.shape == (2, 2)
            assert (await waiting.policy()) == blocking.policy()
            assert (await waiting.policies()) == blocking.policies()
            assert (await waiting.promote("cartpole", 1)).version == 1
            with pytest.raises(NotFound):
                await waiting.rollback("lander")


@pytest.mark.parametrize(
    "observation",
    [
        [0, 0, 0.1, 0],
        (0, 0, 0.1, 0),
        RIGHT,
        RIGHT.astype(np.float64),
        RIGHT.astype(">f4"),
        RIGHT.astype(np.float16),
        np.repeat(RIGHT, 2)[::2],
    ],
)
def test_any_numbers_are_taken(service: InferenceProcess, observation: object) -> None:
    decision = service.client.act(observation, probabilities=True)

    assert decision.action in (0, 1)
    assert decision.probabilities.dtype == np.float64


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([], "is empty"),
        (np.zeros((0, 4), dtype=np.float32), r"is empty: its shape is \[0, 4\]"),
        (["left", "right"], "expected numbers"),
        ([[1, 2], [3]], "not an array"),
        (None, "expected numbers"),
    ],
)
def test_what_is_not_an_observation_is_refused_here(
    service: InferenceProcess, observation: object, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        service.client.act(observation)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 2**64}, {"version": 2**70}])
def test_what_cannot_be_sent_is_refused_here(
    service: InferenceProcess, wrong: dict[str, int]
) -> None:
    with pytest.raises(InvalidInput, match="cannot be sent"):
        service.client.act(RIGHT, sample=True, **wrong)


def test_a_wrong_shape_is_told(service: InferenceProcess) -> None:
    with pytest.raises(InvalidInput, match=r"shape \[1, 4\], expected \[4\] of float32"):
        service.client.act(RIGHT[None])


def test_no_answer_in_time_is_a_deadline(service: InferenceProcess) -> None:
    service.client.act(RIGHT)
    service.process.send_signal(signal.SIGSTOP)
    # Its threads stop one after another, and one of them might answer.
    os.waitid(os.P_PID, service.process.pid, os.WSTOPPED | os.WNOWAIT)
    try:
        with pytest.raises(DeadlineExceeded):
            service.client.act(RIGHT, timeout_s=0.2)
    finally:
        service.process.send_signal(signal.SIGCONT)


def test_calls_go_to_several_services_in_turn(
    service: InferenceProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("second")
    registry = PolicyRegistry(str(folder / "policies"))
    publish(registry, linear_model())
    publish(registry, linear_model((1.0, 0.0)))
    second = InferenceProcess(folder / "policies", folder / "log")
    address = f"{service.address}, {second.address.replace('127.0.0.1', 'localhost')}"
    try:
        with Client(address) as client:
            seen: list[int] = []
            # The second connection may be made a moment after the first call.
            second.wait_for(lambda: seen.append(client.act(RIGHT).version) or set(seen) == {1, 2})
            versions = [client.act(RIGHT).version for _ in range(10)]
            assert sorted(versions) == [1] * 5 + [2] * 5

            second.stop()
            assert {client.act(RIGHT, timeout_s=10).version for _ in range(10)} == {1}
    finally:
        second.stop()


def test_a_client_finds_its_service_again_after_a_restart(
    service: InferenceProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("restart")
    publish(PolicyRegistry(str(folder / "policies")), linear_model())
    first = InferenceProcess(folder / "policies", folder / "log")
    client = first.client
    assert client.act(RIGHT).action == 1
    first.process.kill()
    first.process.wait()

    port = int(first.address.rpartition(":")[2])
    again = subprocess.Popen(
        [sys.executable, "-m", "services.inference"],
        env=environment(folder / "policies", port),
        stderr=subprocess.DEVNULL,
    )
    try:

        def answered() -> bool:
            try:
                return client.act(RIGHT, timeout_s=10).action == 1
            except (Unavailable, NotFound):  # not there yet; there, and still loading
                return False

        assert first.wait_for(answered, 60)
    finally:
        client.close()
        again.terminate()
        assert again.wait(20) == 0


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:50051", "dns:///127.0.0.1:50051"),
        ("inference:50051", "dns:///inference:50051"),
        ("127.0.0.1:1, 127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("localhost:1,127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("dns:///inference:50051", "dns:///inference:50051"),
        ("unix:/run/tutelage", "unix:/run/tutelage"),
    ],
)
def test_addresses(address: str, target: str) -> None:
    assert target_of(address) == target


@pytest.mark.parametrize("address", ["", "localhost", "localhost:http", ":50051", "a:1,,b:2"])
def test_addresses_without_host_or_port_are_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match="must be host:port"):
        Client(address)
