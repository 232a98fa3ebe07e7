"""The peers of the replay benchmark: environments made on demand, and a process for each.

An environment is a virtual environment under $TUTELAGE_PEERS (default: ~/.cache/tutelage-peers)
with pinned packages; it is made on first use and made again when the pins change. What cannot
be installed or started is reported, and the comparison goes on without it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import redis

from services.common.embedded_redis import EmbeddedRedis
from services.common.leash import leashed
from services.common.ports import free_port

HOME = Path(os.environ.get("TUTELAGE_PEERS") or Path.home() / ".cache" / "tutelage-peers")
SCRIPTS = Path(__file__).parent / "replay_peers"
SILENT_S = 300.0  # a peer that says nothing for so long is ended
Figures = Mapping[str, float]


class PeerFailed(Exception):
    """Why a peer has no figures, in one line."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment's name and what is installed in it."""

    name: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    """A replay to compare with.

    script: in replay_peers/; its arguments may hold {redis_port} and {port}.
    """

    name: str
    environment: Environment
    script: str
    arguments: tuple[str, ...] = ()


TORCHRL = Environment(
    "torchrl",
    (
        "torch==2.13.0",
        "torchrl==0.14.1",
        "tensordict==0.14.3",
        "redis==8.1.0",
        "hiredis==3.5.0",
        "gymnasium==1.4.0",
        "numpy==2.4.6",
    ),
)
SB3 = Environment(
    "sb3",
    ("torch==2.13.0", "stable-baselines3==2.9.2", "gymnasium==1.4.0", "numpy==2.4.6"),
)
CPPRB = Environment("cpprb", ("cpprb==11.0.0", "numpy==2.4.6", "setuptools<81"))
REVERB = Environment("reverb", ("dm-reverb[tensorflow]==0.14.0", "numpy<2", "setuptools<81"))
PEERS = (
    Peer("torchrl-redis", TORCHRL, "torchrl_peer.py", ("redis", "{redis_port}")),
    Peer("torchrl-ram", TORCHRL, "torchrl_peer.py", ("ram",)),
    Peer("sb3", SB3, "sb3_peer.py"),
    Peer("cpprb", CPPRB, "cpprb_peer.py"),
    Peer("reverb", REVERB, "reverb_peer.py", ("{port}",)),
)


def python_of(environment: Environment) -> Path:
    """The interpreter of an environment, which is made first where it is missing.

    Raises:
        PeerFailed: when it cannot be made.
    """
    folder = HOME / environment.name
    python, installed = folder / "bin" / "python", folder / "installed.json"
    pins = json.dumps(environment.packages)
    if installed.exists() and installed.read_text() == pins:
        return python
    print(f"making {folder} (a few minutes, once) …", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], "making it")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, *environment.packages], "installing it")
    installed.write_text(pins)
    return python


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerFailed(f"{what} failed: {_last_line(done.stderr)}")


def _volatile_redis(folder: str) -> EmbeddedRedis:
    server = EmbeddedRedis(folder)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.config_set(
            "appendonly", "no"
        )  # as the peer's own figures are taken; ours is durable
    return server


class PeerProcess:
    """A peer that waits for its turns.

    Raises:
        PeerFailed: when it cannot be installed, or does not start.
    """

    def __init__(self, peer: Peer) -> None:
        python = python_of(peer.environment)
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "stderr"
        self._redis: EmbeddedRedis | None = None
        ports = {"port": free_port(), "redis_port": 0}
        if "{redis_port}" in peer.arguments:
            self._redis = _volatile_redis(self._folder.name)
            ports["redis_port"] = self._redis.port
        arguments = [text.format(**ports) for text in peer.arguments]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                leashed([str(python), "-W", "ignore", str(SCRIPTS / peer.script), *arguments]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self._answer()
        except PeerFailed:
            self.stop()
            raise

    def round(self) -> Figures:
        """insert_rows_per_s and sample_256_us of one round.

        Raises:
            PeerFailed: when it has died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("round\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; `_answer` says of what
        return self._answer()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        if self._redis is not None:
            self._redis.stop()
        self._folder.cleanup()

    def _answer(self) -> Figures:
        assert self._process.stdout is not None
        deadline = Timer(SILENT_S, self._process.kill)
        deadline.start()
        line = self._process.stdout.readline()
        deadline.cancel()
        if not line:
            raise PeerFailed(f"it ended: {_last_line(self._log.read_text())}")
        figures: Figures = json.loads(line)
        return figures


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it left no message"
