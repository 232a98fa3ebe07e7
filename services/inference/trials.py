"""Tries models in a process of its own first, which may run out of memory or time, or die.

A file that passes is opened by the service too, where the same batches take the same memory: no
shape in it depends on what callers send (see `operators`). It is no jail: a flaw in ONNX Runtime
itself is as open to a file there as it is here.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, NoReturn

import onnx

from services.common.errors import ModelRejected, TutelageError, Unavailable
from services.common.leash import PR_SET_PDEATHSIG
from services.common.spec import PolicySpec
from services.inference.memory import give_back
from services.inference.operators import MIB, ModelLimits, grows
from services.inference.runner import PolicyRunner, Tried, probe_observations

NICE = 10
PATIENCE = 10  # times the processor time that is allowed, on a machine that is busy
LAST_RESORT = "1000"  # of all processes the kernel ends this one, should memory be short
REMEMBERED = 256
_LENGTH = 8


@dataclass(frozen=True)
class TrialLimits:
    """What a model may take while it is tried.

    memory_bytes: beside what the process has. processor_s: seconds.
    """

    memory_bytes: int = 1024 * MIB
    processor_s: int = 60


class Trials:
    """Has models tried, one at a time, for any thread.

    A verdict on a model that failed stays: it would cost as much again.
    """

    def __init__(
        self,
        limits: TrialLimits,
        model_limits: ModelLimits,
        *,
        max_batch: int,
        intra_op_threads: int,
    ) -> None:
        self._asked = {
            **asdict(limits),
            "bytes": model_limits.bytes,
            "nodes": model_limits.nodes,
            "operators": sorted(model_limits.operators),
            "max_batch": max_batch,
            "intra_op_threads": intra_op_threads,
        }
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._forked = 0
        self._refused: OrderedDict[bytes, str] = OrderedDict()

    def fork(self) -> None:
        """Have this process's copy do it, which costs little; only before there are threads that
        work, and later another is made."""
        own, other = socket.socketpair()
        self._forked = os.fork()
        if not self._forked:
            own.close()
            _serve_and_exit(other)
        other.close()
        self._socket = own

    def run(self, model: bytes, spec: PolicySpec) -> Tried:
        """What a trial found; blocking.

        Raises:
            ModelRejected: when the model must not be served, with the reason.
            Unavailable: when it could not be tried.
        """
        described = spec.model_dump_json()
        key = sha256(described.encode() + model).digest()
        with self._lock:
            if key in self._refused:
                raise ModelRejected(self._refused[key])
            found = self._ask(json.dumps({**self._asked, "spec": described}).encode(), model)
            if refused := found.pop("refused", None):
                self._refused[key] = refused
                while len(self._refused) > REMEMBERED:
                    self._refused.popitem(last=False)
                raise ModelRejected(refused)
        return Tried(**found)

    def close(self) -> None:
        """End the process, and a trial under way with it."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._forked:
            os.kill(self._forked, signal.SIGKILL)
            os.waitpid(self._forked, 0)
        self._socket, self._process, self._forked = None, None, 0

    def _ask(self, header: bytes, model: bytes) -> dict[str, Any]:
        try:
            asked = self._socket = self._socket or self._spawn()
            _send(asked, header)
            _send(asked, model)
            answer = _receive(asked)
        except OSError:
            answer = None
        if answer is None:
            self.close()
            raise Unavailable("the process that tries models has ended; another will be started")
        found: dict[str, Any] = json.loads(answer)
        return found

    def _spawn(self) -> socket.socket:
        own, other = socket.socketpair()
        with other:
            number = other.fileno()
            command = [sys.executable, "-m", "services.inference.trials", str(number)]
            self._process = subprocess.Popen(command, pass_fds=[number], stdin=subprocess.DEVNULL)
        return own


def _serve_and_exit(asking: socket.socket) -> NoReturn:
    code = 1
    try:
        os.setsid()  # what a terminal sends to end the service is not for this process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _serve(asking)
        code = 0
    finally:
        os._exit(code)


def _serve(asking: socket.socket) -> None:
    """Answer until nobody asks any more."""
    while (header := _receive(asking)) is not None and (model := _receive(asking)) is not None:
        _send(asking, _try_apart(json.loads(header), model, asking))


def _try_apart(asked: dict[str, Any], model: bytes, asking: socket.socket) -> bytes:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        asking.close()
        _try_and_exit(asked, model, writing)
    os.close(writing)
    answer = _read_until(reading, time.monotonic() + PATIENCE * asked["processor_s"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)  # it has answered, or is too late
    _, status = os.waitpid(child, 0)
    return answer or json.dumps({"refused": _ended(os.waitstatus_to_exitcode(status))}).encode()


def _ended(code: int) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "trying the model took more processor time or memory than is allowed"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"trying the model ended its process: {how}"


def _read_until(pipe: int, deadline: float) -> bytes:
    content = b""
    with os.fdopen(pipe, "rb", buffering=0) as reading:
        while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = reading.read(1 << 16)
            if not part:
                return content
            content += part
    return b""


def _try_and_exit(asked: dict[str, Any], model: bytes, writing: int) -> NoReturn:
    code = 1
    try:
        _limit(asked["memory_bytes"], asked["processor_s"])
        with os.fdopen(writing, "wb") as answer:
            answer.write(json.dumps(_try(asked, model)).encode())
        code = 0
    finally:
        os._exit(code)


def _limit(memory_bytes: int, processor_s: int) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.__stderr__.fileno() if sys.__stderr__ else 2)
    if sys.platform == "linux":  # to end with the process that has it tried
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.nice(NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(LAST_RESORT)
    most = _memory()[0] + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (processor_s, processor_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _try(asked: dict[str, Any], model: bytes) -> dict[str, object]:
    spec = PolicySpec.model_validate_json(asked["spec"])
    limits = ModelLimits(asked["bytes"], asked["nodes"], frozenset(asked["operators"]))
    _, before = _memory()
    try:
        runner = PolicyRunner(
            model,
            spec,
            limits=limits,
            max_batch=asked["max_batch"],
            intra_op_threads=asked["intra_op_threads"],
        )
        if grows(onnx.load_model_from_string(model)):
            _try_all_sizes(runner)
    except TutelageError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": "trying the model took more memory than is allowed"}
    give_back()
    grown = _memory()[1] - before
    return asdict(Tried(runner.min_rows, runner.max_rows, max(grown, len(model))))


def _try_all_sizes(runner: PolicyRunner) -> None:
    probe = probe_observations(runner.spec, runner.max_rows)
    for rows in range(1, len(probe) + 1):
        runner.run(probe[:rows])


def _memory() -> tuple[int, int]:
    """Bytes of addresses, and those of its own that are in memory."""
    with open("/proc/self/statm") as statm:
        size, resident, shared = map(int, statm.read().split()[:3])
    return size * resource.getpagesize(), (resident - shared) * resource.getpagesize()


def _send(to: socket.socket, content: bytes) -> None:
    to.sendall(len(content).to_bytes(_LENGTH, "big"))
    to.sendall(content)


def _receive(source: socket.socket) -> bytes | None:
    """A message; None when there is nobody to send one."""
    length = _receive_exactly(source, _LENGTH)
    return None if length is None else _receive_exactly(source, int.from_bytes(length, "big"))


def _receive_exactly(source: socket.socket, count: int) -> bytes | None:
    content = bytearray(count)
    view, got = memoryview(content), 0
    while got < count:
        part = source.recv_into(view[got:])
        if not part:
            return None
        got += part
    return bytes(content)


if __name__ == "__main__":
    _serve_and_exit(socket.socket(fileno=int(sys.argv[1])))
