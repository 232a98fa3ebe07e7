"""How fast Act is answered, beside servers that one would use in its place.

    python tests/benchmarks/bench_serve.py [--rounds 5] [--seconds 2] [--peers echo aio triton]

The yardstick is a bare C++ gRPC server that answers with the bytes it got: what gRPC itself can
do on this machine. The load is h2load (Debian's nghttp2-client): unary calls over 1, 8 and 64
connections, one under way on each, the same for all. All servers are up at once and are loaded
in turn, round after round, and a figure is the median of its rounds, so that what else the
machine does weighs on all alike: read the ratios within one run. `cpu µs` is a server's own
processor time for a call. Writes build/bench/serve.json.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from inference_process import InferenceProcess
from peer_process import PeerFailed
from serve_peer import PEERS, run, stop
from tiny_policies import dense_model, publish, random_layers

from services.common.registry import PolicyRegistry
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1.array_pb2 import DTYPE_FLOAT32, Array

CONNECTIONS = (1, 8, 64)
LAYERS = [4, 64, 64, 2]
BATCH = 256
BATCH_CONNECTIONS = 4
REPORT = Path("build/bench/serve.json")
ACT, ACT_BATCH = (f"/tutelage.v1.PolicyService/{name}" for name in ("Act", "ActBatch"))
HEADERS = ("content-type: application/grpc", "te: trailers")
TO_US = {"us": 1.0, "ms": 1e3, "s": 1e6}
# What issue 5 asks, as shares of the echo server's calls/s, and at one connection of its mean time.
ASKED = {1: 2.2, 8: 0.5, 64: 0.6}
ASKED_ROWS = 1_000_000


@dataclass(frozen=True)
class Target:
    """What is loaded: a method of a server, and one request."""

    name: str
    address: str
    path: str
    body: Path
    process: psutil.Process


Figures = dict[str, float]
Row = dict[str, Any]  # figures, and of which server at how many connections


def load(target: Target, connections: int, seconds: float) -> Figures:
    """calls/s, mean microseconds a call, the server's cpu microseconds a call, failed calls."""
    before = _cpu_s(target.process)
    command = ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds:g}", "--warm-up-time=1"]
    for header in HEADERS:
        command += ["-H", header]
    command += ["-d", str(target.body), f"http://{target.address}{target.path}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used_s = _cpu_s(target.process) - before
    rate = float(_found(r"([\d.]+) req/s", said)[0])
    mean, unit = _found(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", said)
    return {
        "calls_per_s": rate,
        "mean_us": float(mean) * TO_US[unit],
        "cpu_us": used_s / max(1.0, rate * (seconds + 1)) * 1e6,  # of the warm-up's calls too
        "failed": float(_found(r"(\d+) failed", said)[0]),
    }


def _found(pattern: str, text: str) -> Sequence[str]:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"h2load said nothing like {pattern}:\n{text}")
    return match.groups()


def _cpu_s(process: psutil.Process) -> float:
    everyone = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in everyone)


@contextmanager
def ours(folder: Path, transport: str) -> Iterator[list[Target]]:
    """The inference service on a transport: Act, and on the native one ActBatch."""
    settings = {"inference_poll_s": 1, "inference_transport": transport}
    service = InferenceProcess(folder / "policies", folder / f"{transport}.log", **settings)
    process = psutil.Process(service.process.pid)
    named = "ours" if transport == "native" else f"ours on {transport}"
    targets = [Target(named, service.address, ACT, _framed(folder, "act", _act()), process)]
    if transport == "native":
        body = _framed(folder, "act_batch", _act_batch())
        targets.append(Target("ActBatch", service.address, ACT_BATCH, body, process))
    try:
        yield targets
    finally:
        service.stop()


def _act() -> bytes:
    observation = np.array([0.01, 0.02, 0.03, 0.04], dtype="<f4")
    array = Array(raw=observation.tobytes(), dtype=DTYPE_FLOAT32, shape=observation.shape)
    content: bytes = pb.ActRequest(policy="cartpole", observation=array).SerializeToString()
    return content


def _act_batch() -> bytes:
    observations = np.random.default_rng(0).normal(size=(BATCH, 4)).astype("<f4")
    array = Array(raw=observations.tobytes(), dtype=DTYPE_FLOAT32, shape=observations.shape)
    content: bytes = pb.ActBatchRequest(policy="cartpole", observations=array).SerializeToString()
    return content


def _framed(folder: Path, name: str, message: bytes) -> Path:
    """A file with a message as gRPC sends it."""
    path = folder / f"{name}.body"
    path.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    return path


@contextmanager
def servers(peers: Sequence[str], transports: Sequence[str]) -> Iterator[list[Target]]:
    """All that is compared, up at once; peers that cannot be had are reported and left out."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        model = folder / "policy.onnx"
        model.write_bytes(dense_model(random_layers(LAYERS)))
        publish(PolicyRegistry(str(folder / "policies")), model.read_bytes())
        targets: list[Target] = []
        for peer in peers:
            try:
                server = run(PEERS[peer], folder, model)
            except PeerFailed as failed:
                print(f"without {peer}: {failed}", flush=True)
                continue
            running.callback(stop, server)
            body, process = (
                _framed(folder, peer, server.request),
                psutil.Process(server.process.pid),
            )
            targets.append(Target(peer, server.address, server.path, body, process))
        for transport in transports:
            targets += running.enter_context(ours(folder, transport))
        yield targets


def measure(targets: Sequence[Target], rounds: int, seconds: float) -> list[Row]:
    """Medians over the rounds, a row for each target and number of connections."""
    seen: dict[tuple[str, int], list[Figures]] = {}
    for done in range(rounds):
        for target in targets:
            batch = target.name == "ActBatch"
            for connections in (BATCH_CONNECTIONS,) if batch else CONNECTIONS:
                figures = load(target, connections, seconds)
                seen.setdefault((target.name, connections), []).append(figures)
        print(f"round {done + 1} of {rounds}", file=sys.stderr, flush=True)
    return [
        {"server": name, "connections": n} | _medians(figures)
        for (name, n), figures in seen.items()
    ]


def _medians(rounds: list[Figures]) -> Figures:
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def show(rows: Sequence[Row]) -> None:
    """Print a table a number of connections, and what was asked of ours."""
    for connections in CONNECTIONS:
        own = [r for r in rows if r["connections"] == connections and r["server"] != "ActBatch"]
        echo = next((row for row in own if row["server"] == "echo"), None)
        print(f"\n{connections} connection{'s' * (connections > 1)}")
        print(f"{'':>14} {'calls/s':>9} {'mean µs':>9} {'cpu µs':>8} {'failed':>7}  of the echo")
        for row in own:
            share = f"{row['calls_per_s'] / echo['calls_per_s']:.2f}" if echo else "?"
            times = f"{row['mean_us'] / echo['mean_us']:.2f}" if echo else "?"
            print(
                f"{row['server']:>14} {row['calls_per_s']:>9.0f} {row['mean_us']:>9.0f} "
                f"{row['cpu_us']:>8.1f} {row['failed']:>7.0f}  {share} of its rate, {times} of "
                "its time"
            )
        asked = f"≤ {ASKED[1]} of its time" if connections == 1 else f"≥ {ASKED[connections]}"
        print(f"{'asked':>14} {asked:>9} of the echo's")
    for row in rows:
        if row["server"] == "ActBatch":
            rate = row["calls_per_s"] * BATCH
            print(
                f"\nActBatch of {BATCH} over {row['connections']} connections: {rate:,.0f} "
                f"observations/s (asked: {ASKED_ROWS:,}), {row['cpu_us'] / BATCH:.2f} cpu µs each"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["echo", "aio", "triton"])
    parser.add_argument(
        "--transports", nargs="*", choices=["native", "aio"], default=["native", "aio"]
    )
    arguments = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load makes the load, and is not here (Debian: apt-get install nghttp2-client)")
    with servers(arguments.peers, arguments.transports) as targets:
        rows = measure(targets, arguments.rounds, arguments.seconds)
    show(rows)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
