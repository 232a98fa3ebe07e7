"""Tokens and roles over real gRPC, on each transport; TLS from the client's side."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from inference_process import InferenceProcess, environment
from tiny_policies import linear_model, publish
from tls_front import Certificates
from transports import TRANSPORTS

from services.common.ports import free_port
from services.common.registry import PolicyRegistry
from tutelage import AsyncClient, Client, Credentials, Decision
from tutelage.errors import (
    DeadlineExceeded,
    InvalidConfig,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)

STATE = [0.0, 0.0, 0.1, 0.0]
ACTING, RUNNING = "a-robot-may-act-with-this", "an-operator-promotes-with-this"


@pytest.fixture(params=TRANSPORTS)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InferenceProcess]:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"act {ACTING}\nadmin {RUNNING}\n")
    publish(PolicyRegistry(str(tmp_path / "policies")), linear_model())
    process = InferenceProcess(
        tmp_path / "policies",
        tmp_path / "log",
        inference_transport=request.param,
        inference_tokens=tokens,
    )
    yield process
    process.stop()


def test_each_token_does_what_its_role_allows(service: InferenceProcess) -> None:
    with Client(service.address) as nobody, pytest.raises(Unauthenticated, match="needs a token"):
        nobody.act(STATE)
    with Client(service.address, credentials=Credentials(token=ACTING)) as robot:
        assert robot.act(STATE).version == 1
        assert robot.policies()[0].name == "cartpole"
        with pytest.raises(PermissionDenied, match="SetAlias needs role admin, the token has act"):
            robot.promote("cartpole", 1)
    with Client(service.address, credentials=Credentials(token=RUNNING)) as operator:
        assert operator.promote("cartpole", 1).version == 1
        assert operator.act_batch([STATE, STATE]).version == 1


async def test_the_asyncio_client_shows_its_token(service: InferenceProcess) -> None:
    credentials = Credentials(token=ACTING)
    async with AsyncClient(service.address, credentials=credentials) as robot:
        assert (await robot.act(STATE)).version == 1


def test_health_needs_no_token(service: InferenceProcess) -> None:
    with grpc.insecure_channel(service.address) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_beyond_the_machine_aliases_are_not_moved_without_tokens(tmp_path: Path) -> None:
    publish(PolicyRegistry(str(tmp_path / "policies")), linear_model())
    service = InferenceProcess(tmp_path / "policies", tmp_path / "log", host="0.0.0.0")
    try:
        assert service.client.act(STATE).version == 1
        with pytest.raises(PermissionDenied, match="set TUTELAGE_INFERENCE_TOKENS"):
            service.client.promote("cartpole", 1)
    finally:
        service.stop()


def act_once_it_is_there(client: Client) -> Decision:
    deadline = time.monotonic() + 60
    while True:
        try:
            return client.act(STATE)
        except (Unavailable, NotFound):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_client_by_mutual_tls(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    publish(PolicyRegistry(str(tmp_path / "policies")), linear_model())
    port = free_port()
    variables = environment(
        tmp_path / "policies",
        port,
        inference_tls_certificate=certificates.server[0],
        inference_tls_key=certificates.server[1],
        inference_tls_client_ca=certificates.authority,
    )
    own, key = (path.read_bytes() for path in certificates.client)
    shown = Credentials(authority=certificates.authority.read_bytes(), certificate=own, key=key)
    process = subprocess.Popen([sys.executable, "-m", "services.inference"], env=variables)
    try:
        with Client(f"127.0.0.1:{port}", credentials=shown) as client:
            assert act_once_it_is_there(client).version == 1
        with Client(f"127.0.0.1:{port}") as plain, pytest.raises((Unavailable, DeadlineExceeded)):
            plain.act(STATE, timeout_s=1)
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="needs its key"):
        Credentials(certificate=b"-----BEGIN")


def test_what_is_secret_is_not_printed() -> None:
    assert RUNNING not in repr(Credentials(token=RUNNING))
