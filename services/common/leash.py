"""Runs a command that dies with the process that started it, even when that one is killed.

`leashed(command)` is the command to start instead. Its process id is the command's own, for
this file only prepares the process and then becomes the command. It is run as a script of
its own, because code between fork and exec is unsafe in a program that has threads.

On Linux the kernel ends the process as soon as the *thread* that started it is gone, so
start leashed commands from a thread that lives as long as they should.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
POLL_S = 1.0


def leashed(command: Sequence[str]) -> list[str]:
    """The command, prepared to be started by this process and to die with it."""
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), *command]


def _tie_to(owner: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != owner:  # gone before the leash was on
            sys.exit(1)
    elif os.fork() == 0:
        _watch(owner, os.getppid())


def _watch(owner: int, command: int) -> None:
    """Where the kernel does not watch, a small process does: it kills `command` after `owner`."""
    while os.getppid() == command:
        try:
            os.kill(owner, 0)
        except ProcessLookupError:
            os.kill(command, signal.SIGKILL)
        time.sleep(POLL_S)
    os._exit(0)


if __name__ == "__main__":
    _tie_to(int(sys.argv[1]))
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"{sys.argv[2]}: {error.strerror}")
