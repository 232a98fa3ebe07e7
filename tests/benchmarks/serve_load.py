"""What loads a server in the serving benchmark: h2load, with unary gRPC calls.

h2load is Debian's nghttp2-client; one call is under way on each connection.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

HEADERS = ("content-type: application/grpc", "te: trailers")
TO_US = {"us": 1.0, "ms": 1e3, "s": 1e6}

Figures = dict[str, float]


@dataclass(frozen=True)
class Target:
    """What is loaded: a method of a server, and one request."""

    name: str
    address: str
    path: str
    body: Path
    process: psutil.Process


def load(target: Target, connections: int, seconds: float) -> Figures:
    """calls/s, mean microseconds a call, the server's cpu microseconds a call, failed calls."""
    before = _cpu_s(target.process)
    said = _run(target, connections, [f"-D{seconds:g}", "--warm-up-time=1"])
    used_s = _cpu_s(target.process) - before
    rate = float(_found(r"([\d.]+) req/s", said)[0])
    mean, unit = _found(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", said)
    return {
        "calls_per_s": rate,
        "mean_us": float(mean) * TO_US[unit],
        "cpu_us": used_s / max(1.0, rate * (seconds + 1)) * 1e6,  # of the warm-up's calls too
        "failed": float(_found(r"(\d+) failed", said)[0]),
    }


def latencies_us(target: Target, connections: int, seconds: int) -> tuple[np.ndarray, int]:
    """Microseconds of each call, and how many failed."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "calls.tsv"
        said = _run(target, connections, [f"-D{seconds}", f"--log-file={log}"])
        took = np.loadtxt(log, usecols=2, ndmin=1)
    return took, int(_found(r"(\d+) failed", said)[0])


def framed(folder: Path, name: str, message: bytes) -> Path:
    """A file with a message as gRPC sends it."""
    path = folder / f"{name}.body"
    path.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    return path


def _run(target: Target, connections: int, options: Sequence[str]) -> str:
    command = ["h2load", "-t1", f"-c{connections}", "-m1", *options]
    for header in HEADERS:
        command += ["-H", header]
    command += ["-d", str(target.body), f"http://{target.address}{target.path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _found(pattern: str, text: str) -> Sequence[str]:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"h2load said nothing like {pattern}:\n{text}")
    return match.groups()


def _cpu_s(process: psutil.Process) -> float:
    everyone = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in everyone)
