"""Several processes on one port, where there are cores to spare: the kernel deals connections out.

Each worker is a whole inference service. They know nothing of each other, and meet where replicas
do: in the policy repository and in Redis. This process keeps them and answers no call itself.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import structlog

from services.common.leash import leashed
from services.common.server.bootstrap import cannot_listen, check_port

log = structlog.get_logger()

LOOK_S = 0.1
RESTART_S = 1.0  # at least, from a worker's start to that of the one in its place
LEAVE_S = 5.0  # for ending, beside what workers give calls under way
CANNOT_RUN = 1  # the exit code of a worker whose settings or port are not to be had


class Workers:
    """Runs a command so many times over, and again where one ends that was not told to.

    Args:
        commands: of each worker.
        grace_s: how long they may take to end.
    """

    def __init__(self, commands: Sequence[Sequence[str]], grace_s: float) -> None:
        self._commands, self._grace_s = commands, grace_s
        self._stop = threading.Event()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._started = [0.0] * len(commands)

    def run(self) -> int:
        """Keep the workers until SIGTERM or SIGINT; the exit code to end with."""
        with _signals(self._stop), ExitStack() as ending:
            ending.callback(self._end)
            while not self._stop.wait(LOOK_S if self._running else 0):
                for number in range(len(self._commands)):
                    if not self._look_after(number):
                        return CANNOT_RUN
        return 0

    def _look_after(self, number: int) -> bool:
        """Start a worker where there is none; False when there cannot be one."""
        worker = self._running.get(number)
        if worker is not None and worker.poll() is None:
            return True
        if worker is not None:
            if worker.returncode == CANNOT_RUN:
                return False
            log.error("worker ended, starting another", worker=number, code=worker.returncode)
            del self._running[number]
        if time.monotonic() >= self._started[number] + RESTART_S:
            self._started[number] = time.monotonic()
            self._running[number] = subprocess.Popen(leashed(self._commands[number]))
        return True

    def _end(self) -> None:
        for worker in self._running.values():
            worker.terminate()
        deadline = time.monotonic() + self._grace_s + LEAVE_S
        for number, worker in self._running.items():
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("worker did not end in time, killing it", worker=number)
                worker.kill()
                worker.wait()


def run_workers(address: str, count: int, grace_s: float) -> int:
    """Run workers that share an address, until told to stop; the exit code to end with.

    Raises:
        ResourceExhausted: when the port is taken.
    """
    with held(address) as port:
        command = [sys.executable, "-m", "services.inference", "--port", str(port), "--worker"]
        commands = [[*command, str(number)] for number in range(count)]
        return Workers(commands, grace_s).run()


@contextmanager
def held(address: str) -> Iterator[int]:
    """Keep a port for those who share it, and from all others; which it is, for port 0 too.

    Raises:
        ResourceExhausted: when it is taken.
    """
    host, _, wanted = address.rpartition(":")
    host = host.strip("[]")
    check_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            holder.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            holder.bind((host, int(wanted)))
        except OSError:
            raise cannot_listen(address) from None
        yield holder.getsockname()[1]


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
