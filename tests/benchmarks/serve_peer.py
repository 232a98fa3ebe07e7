"""The peers of the serving benchmark: servers of one ONNX policy, made on demand.

The yardstick is a bare C++ gRPC server that answers with the bytes it got, compiled on first use
where g++ and libgrpc++-dev are. The others are what one would use in our place, at pinned
versions, each in a virtual environment of its own (see peer_process.py). What cannot be made or
does not start is reported, and the comparison goes on without it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peer_process import HOME, Environment, PeerFailed, python_of

from services.common.leash import leashed
from services.common.ports import free_port

SOURCES = Path(__file__).parent / "serve_peers"
START_S = 90.0
OBSERVATION = struct.pack("<4f", 0.1, 0.2, 0.3, 0.4)
# The messages of two protocols, small enough to be written by hand: peer.v1.ActRequest with a
# packed observation (field 1), and the Open Inference Protocol's ModelInferRequest with raw
# contents. Each ends with the 16 bytes of the observation.
ACT = b"\x0a\x10" + OBSERVATION
_TENSOR = b"\x0a\x03obs\x12\x04FP32\x1a\x02\x01\x04"
INFER = b"\x0a\x01m\x2a" + bytes([len(_TENSOR)]) + _TENSOR + b"\x3a\x10" + OBSERVATION
ACT_PATH = "/peer.v1.Policy/Act"
INFER_PATH = "/inference.GRPCInferenceService/ModelInfer"

AIO = Environment(
    "serve-aio",
    ("grpcio==1.85.1", "protobuf==7.36.2", "onnxruntime==1.32.0", "numpy==2.4.6"),
)
TRITON = Environment("serve-triton", ("nvidia-pytriton==0.7.0", "onnxruntime==1.32.0"))
MLSERVER = Environment(
    "serve-mlserver", ("mlserver==1.7.1", "onnxruntime==1.32.0", "setuptools<81")
)


@dataclass(frozen=True)
class Running:
    """A peer that answers: where, which method, and one request."""

    process: subprocess.Popen[bytes]
    address: str
    path: str
    request: bytes


Start = Callable[[Path, Path, int], tuple[list[str], dict[str, str]]]


@dataclass(frozen=True)
class Peer:
    """A server to compare with.

    start: from a folder of its own, the policy's file and a free port to the command, and what
        its environment has beside ours. Raises PeerFailed.
    """

    name: str
    start: Start
    path: str = ACT_PATH
    request: bytes = ACT


def run(peer: Peer, folder: Path, model: Path) -> Running:
    """Start a peer, and wait until it listens.

    Raises:
        PeerFailed: with the reason in one line.
    """
    own, port = folder / peer.name, free_port()
    own.mkdir(parents=True)
    command, variables = peer.start(own, model, port)
    with (own / "log").open("wb") as log:
        process = subprocess.Popen(
            leashed(command),
            cwd=own,
            env={**os.environ, **variables},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = Running(process, f"127.0.0.1:{port}", peer.path, peer.request)
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return running
        time.sleep(0.2)
    stop(running)
    lines = (own / "log").read_text(errors="replace").splitlines() or ["it said nothing"]
    raise PeerFailed(f"it does not listen: {lines[-1][:200]}")


def stop(running: Running) -> None:
    """End a peer."""
    running.process.terminate()
    try:
        running.process.wait(20)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.wait()


def _echo(folder: Path, model: Path, port: int) -> tuple[list[str], dict[str, str]]:
    source, binary = SOURCES / "echo.cc", HOME / "echo"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        if shutil.which("g++") is None:
            raise PeerFailed("there is no g++ to build it with (Debian: g++ libgrpc++-dev)")
        binary.parent.mkdir(parents=True, exist_ok=True)
        libraries = ["-lgrpc++", "-lgrpc", "-lgpr", "-labsl_synchronization", "-lpthread"]
        command = ["g++", "-O2", "-std=c++17", str(source), "-o", str(binary), *libraries]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode:
            raise PeerFailed(f"it cannot be built: {built.stderr.splitlines()[0][:200]}")
    return [str(binary), f"127.0.0.1:{port}"], {}


def _aio(folder: Path, model: Path, port: int) -> tuple[list[str], dict[str, str]]:
    python = python_of(AIO)
    return [str(python), str(SOURCES / "aio_server.py"), f"127.0.0.1:{port}", str(model)], {}


def _mlserver(folder: Path, model: Path, port: int) -> tuple[list[str], dict[str, str]]:
    python = python_of(MLSERVER)
    shutil.copy(SOURCES / "mlserver_model.py", folder / "model.py")
    (folder / "model-settings.json").write_text(
        json.dumps(
            {"name": "m", "implementation": "model.Policy", "parameters": {"uri": str(model)}}
        )
    )
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "parallel_workers": 0,
                "host": "127.0.0.1",
                "grpc_port": port,
                "http_port": free_port(),
                "metrics_port": free_port(),
            }
        )
    )
    return [str(python.parent / "mlserver"), "start", "."], {}


def _triton(folder: Path, model: Path, port: int) -> tuple[list[str], dict[str, str]]:
    python = python_of(TRITON)
    packages = next(python.parent.parent.glob("lib/python*/site-packages"))
    triton = packages / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise PeerFailed(f"it has no backend for Python {version}")
    shutil.copy(stub, triton / "backends" / "python")
    version_folder = folder / "repository" / "m" / "1"
    version_folder.mkdir(parents=True)
    shutil.copy(SOURCES / "triton_model.py", version_folder / "model.py")
    shutil.copy(SOURCES / "triton_config.pbtxt", version_folder.parent / "config.pbtxt")
    ask = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    library = subprocess.check_output([str(python), "-c", ask], text=True).strip()
    command = [
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={folder / 'repository'}",
        f"--backend-directory={triton / 'backends'}",
        f"--grpc-port={port}",
        f"--http-port={free_port()}",
        f"--metrics-port={free_port()}",
        "--grpc-address=127.0.0.1",
        "--http-address=127.0.0.1",
    ]
    return command, {
        "VIRTUAL_ENV": str(python.parent.parent),
        "PYTHONPATH": str(packages),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{library}:{packages / 'nvidia_pytriton.libs'}",
        "POLICY": str(model),
    }


ECHO = Peer("echo", _echo)
PEERS = {
    peer.name: peer
    for peer in (
        ECHO,
        Peer("aio", _aio),
        Peer("triton", _triton, INFER_PATH, INFER),
        Peer("mlserver", _mlserver, INFER_PATH, INFER),
    )
}
