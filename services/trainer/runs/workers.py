"""Starts the processes of runs, and keeps some ready which have imported what a run needs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import structlog

from services.common.leash import leashed

log = structlog.get_logger()
SETTLING_S = 3.0
"""For so long after a run was given its process no other is made ready beside it."""


@dataclass
class Workers:
    """Processes of runs. Used in one thread, with which they die.

    Importing torch and its exporter takes several seconds. A process that is ready has done so,
    and reads from its standard input which run it is to be.

    Args:
        ready: how many to keep ready.
    """

    ready: int = 0
    _waiting: deque[subprocess.Popen[bytes]] = field(default_factory=deque)
    _missing: bool = True
    _settled_at: float = 0.0

    def start(self, run_id: str) -> subprocess.Popen[bytes]:
        """A process at work on a run: one that was ready, or else a new one."""
        self._missing, self._settled_at = True, time.monotonic() + SETTLING_S
        while self._waiting:
            process = self._waiting.popleft()
            if _become(process, run_id):
                return process
            log.warning("a process died before it had a run", exit_code=_end(process))
        return subprocess.Popen(_command("run", run_id), start_new_session=True)

    def make_ready(self) -> None:
        """Start processes ahead of runs, once what was started last has settled.

        One that dies without a run is not replaced before the next run has begun.
        """
        if not self._missing or time.monotonic() < self._settled_at:
            return
        self._missing = False
        while len(self._waiting) < self.ready:
            self._waiting.append(
                subprocess.Popen(_command("ready"), stdin=subprocess.PIPE, start_new_session=True)
            )

    def close(self) -> None:
        """End those that have no run."""
        while self._waiting:
            _end(self._waiting.popleft())


def _command(*arguments: str) -> list[str]:
    return leashed([sys.executable, "-m", "services.trainer", *arguments])


def _become(process: subprocess.Popen[bytes], run_id: str) -> bool:
    if process.stdin is None or process.poll() is not None:
        return False
    try:
        with process.stdin:
            process.stdin.write(f"{run_id}\n".encode())
    except BrokenPipeError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> int:
    process.kill()  # it has nothing to lose
    process.communicate()  # which closes the pipe too
    return process.returncode
