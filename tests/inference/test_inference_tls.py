"""TLS and mutual TLS, by settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from inference_process import environment
from tls_front import Certificates
from transports import TRANSPORTS

from services.common.ports import free_port


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def check(port: int, credentials: grpc.ChannelCredentials | None, timeout: float) -> None:
    target = f"127.0.0.1:{port}"
    channel = (
        grpc.insecure_channel(target)
        if credentials is None
        else grpc.secure_channel(target, credentials)
    )
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout, wait_for_ready=True)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_only_who_shows_a_certificate_is_answered(
    tmp_path: Path, certificates: Certificates, transport: str
) -> None:
    port = free_port()
    variables = environment(
        tmp_path / "policies",
        port,
        inference_transport=transport,
        inference_tls_certificate=certificates.server[0],
        inference_tls_key=certificates.server[1],
        inference_tls_client_ca=certificates.authority,
    )
    authority = certificates.authority.read_bytes()
    certificate, key = (path.read_bytes() for path in certificates.client)
    process = subprocess.Popen([sys.executable, "-m", "services.inference"], env=variables)
    try:
        check(port, grpc.ssl_channel_credentials(authority, key, certificate), 30.0)
        for credentials in (None, grpc.ssl_channel_credentials(authority)):
            with pytest.raises(grpc.RpcError):
                check(port, credentials, 1.0)
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("given", ["certificate", "key"])
def test_half_of_it_is_one_clear_line(
    tmp_path: Path, certificates: Certificates, given: str
) -> None:
    variables = environment(
        tmp_path, free_port(), **{f"inference_tls_{given}": certificates.server[0]}
    )
    ended = subprocess.run(
        [sys.executable, "-m", "services.inference"],
        env=variables,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "TLS needs TUTELAGE_INFERENCE_TLS_CERTIFICATE and" in line
