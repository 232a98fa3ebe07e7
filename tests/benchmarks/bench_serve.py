"""How fast Act is answered, beside servers that one would use in its place.

    python tests/benchmarks/bench_serve.py [--rounds 5] [--seconds 2] [--peers echo aio triton]

The yardstick is a bare C++ gRPC server that answers with the bytes it got: what gRPC itself can
do on this machine. The load is h2load (Debian's nghttp2-client): unary calls over 1, 8 and 64
connections, one under way on each, the same for all. All servers are up at once and are loaded
in turn, round after round, and a figure is the median of its rounds, so that what else the
machine does weighs on all alike: read the ratios within one run. `cpu µs` is a server's own
processor time for a call. Writes build/bench/serve.json.

Of ours on the native transport it also measures batches of images for a network that is large,
beside onnxruntime alone; and calls' times while new versions come, beside those while none does.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from inference_process import InferenceProcess
from peer_process import PeerFailed
from serve_images import POLICY, image_targets, measure_images, nature_cnn, show_images, spec
from serve_load import Figures, Target, framed, load
from serve_peer import PEERS, run, stop
from serve_reload import measure_reloads, show_reloads
from tiny_policies import dense_model, publish, random_layers

from services.common.registry import PolicyRegistry
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1.array_pb2 import DTYPE_FLOAT32, Array

CONNECTIONS = (1, 8, 64)
LAYERS = [4, 64, 64, 2]
OURS = "ours"  # on the native transport, in one process
WORKERS = 2
BATCH = 256
BATCH_CONNECTIONS = 4
REPORT = Path("build/bench/serve.json")
ACT, ACT_BATCH = (f"/tutelage.v1.PolicyService/{name}" for name in ("Act", "ActBatch"))
# What issue 5 asks, as shares of the echo server's calls/s, and at one connection of its mean time.
ASKED = {1: 2.2, 8: 0.5, 64: 0.6}
ASKED_ROWS = 1_000_000


Row = dict[str, Any]  # figures, and of which server at how many connections


@contextmanager
def ours(folder: Path, transport: str, workers: int = 1) -> Iterator[list[Target]]:
    """The inference service on a transport: Act, and on the native one ActBatch."""
    settings = {
        "inference_poll_s": 1,
        "inference_transport": transport,
        "inference_workers": workers,
    }
    log = folder / f"{transport}-{workers}.log"
    service = InferenceProcess(folder / "policies", log, **settings)
    process = psutil.Process(service.process.pid)
    named = OURS if transport == "native" else f"ours on {transport}"
    if workers > 1:
        named = f"{workers} workers"
        service.wait_for(lambda: len(service.records("listening")) == workers)
    targets = [Target(named, service.address, ACT, framed(folder, "act", _act()), process)]
    if named == OURS:
        body = framed(folder, "act_batch", _act_batch())
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


@contextmanager
def servers(peers: Sequence[str], transports: Sequence[str]) -> Iterator[tuple[list[Target], Path]]:
    """All that is compared, up at once; peers that cannot be had are reported and left out.

    With them the folder of our policies, in policies/.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        model = folder / "policy.onnx"
        model.write_bytes(dense_model(random_layers(LAYERS)))
        registry = PolicyRegistry(str(folder / "policies"))
        publish(registry, model.read_bytes())
        publish(registry, nature_cnn(), policy=POLICY, spec=spec())
        targets: list[Target] = []
        for peer in peers:
            try:
                server = run(PEERS[peer], folder, model)
            except PeerFailed as failed:
                print(f"without {peer}: {failed}", flush=True)
                continue
            running.callback(stop, server)
            body, process = (
                framed(folder, peer, server.request),
                psutil.Process(server.process.pid),
            )
            targets.append(Target(peer, server.address, server.path, body, process))
        for transport in transports:
            targets += running.enter_context(ours(folder, transport))
        if "native" in transports:
            targets += running.enter_context(ours(folder, "native", WORKERS))
        yield targets, folder


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
    with servers(arguments.peers, arguments.transports) as (targets, folder):
        report: dict[str, Any] = {"act": measure(targets, arguments.rounds, arguments.seconds)}
        show(report["act"])
        for server in (target for target in targets if target.name == OURS):
            images = image_targets(folder, server)
            report["images"] = measure_images(images, nature_cnn(), arguments.rounds)
            show_images(report["images"])
            registry = PolicyRegistry(str(folder / "policies"))
            report["reload"] = measure_reloads(server, registry, LAYERS, arguments.rounds)
            show_reloads(report["reload"])
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
