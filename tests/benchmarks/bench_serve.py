"""How fast Act is answered, beside a gRPC server in Python that does nothing.

    python tests/benchmarks/bench_serve.py [--rounds 5] [--seconds 2]

Server and callers are processes of their own. Every connection has one call under way at a
time. Both servers are measured in turn within each round, and medians over the rounds are
given, so that what else the machine does weighs on both alike. `cpu µs` is the server's own
processor time for a call, which a busy machine disturbs least. Writes build/bench/serve.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from inference_process import InferenceProcess
from tiny_policies import dense_model, publish, random_layers

from services.common.ports import free_port
from services.common.registry import PolicyRegistry
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1 import policy_pb2_grpc
from tutelage.v1.array_pb2 import DTYPE_FLOAT32, Array

CONNECTIONS = (1, 8, 64)
LAYERS = [4, 120, 84, 2]  # CartPole's network
REPORT = Path("build/bench/serve.json")
METHOD = "/tutelage.v1.PolicyService/Act"


class Echo(policy_pb2_grpc.PolicyServiceServicer):
    """Answers at once what Act would, having looked at nothing."""

    async def Act(self, request: pb.ActRequest, context: Any) -> pb.ActResponse:  # noqa: N802
        return pb.ActResponse(
            action=pb.Action(discrete=1), version=1, digest="0" * 64, log_probability=-0.5
        )


async def serve_echo(port: int) -> None:
    server = grpc.aio.server()
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(Echo(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def call_for(address: str, connections: int, seconds: float) -> dict[str, float]:
    """Calls made, calls/s and latencies in microseconds over so many connections."""
    observation = np.array([0.01, 0.02, 0.03, 0.04], dtype="<f4")
    request = pb.ActRequest(
        policy="cartpole",
        observation=Array(raw=observation.tobytes(), dtype=DTYPE_FLOAT32, shape=[4]),
    ).SerializeToString()
    latencies: list[float] = []
    until = [0.0]
    made = 0

    async def keep_calling(channel: grpc.aio.Channel) -> None:
        act = channel.unary_unary(METHOD)
        while (started := time.perf_counter()) < until[0]:
            await act(request, timeout=30)
            latencies.append(time.perf_counter() - started)

    # Channels to one address share a connection unless they are told not to.
    alone = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(address, options=alone) for _ in range(connections)]
    for measured_s in (0.3, seconds):  # the first warms up
        latencies.clear()
        until[0] = time.perf_counter() + measured_s
        await asyncio.gather(*map(keep_calling, channels))
        made += len(latencies)
    await asyncio.gather(*(channel.close() for channel in channels))
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e6
    return {"calls": made, "calls_per_s": len(latencies) / seconds, "p50_us": p50, "p99_us": p99}


@contextmanager
def servers() -> Iterator[dict[str, tuple[str, psutil.Process]]]:
    """Address and process of the echo server and of the inference service, by name."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = dense_model(random_layers(LAYERS))
        publish(PolicyRegistry(str(folder / "policies")), model)
        echo = subprocess.Popen([sys.executable, __file__, "--echo", str(port)])
        service = InferenceProcess(folder / "policies", folder / "log", inference_poll_s=1)
        try:
            yield {
                "echo": (f"127.0.0.1:{port}", psutil.Process(echo.pid)),
                "act": (service.address, psutil.Process(service.process.pid)),
            }
        finally:
            service.stop()
            echo.terminate()
            echo.wait()


def load(address: str, connections: int, seconds: float) -> dict[str, float]:
    """What `call_for` finds, in a process of its own."""
    numbers = [str(connections), str(seconds)]
    command = [sys.executable, __file__, "--load", address, *numbers]
    figures: dict[str, float] = json.loads(subprocess.check_output(command))
    return figures


def measure(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Medians over the rounds, for each number of connections."""
    seen: dict[tuple[int, str], list[dict[str, float]]] = {}
    with servers() as running:
        for _ in range(rounds):
            for connections in CONNECTIONS:
                for name, (address, process) in running.items():
                    before = sum(process.cpu_times()[:2])
                    figures = load(address, connections, seconds)
                    used_s = sum(process.cpu_times()[:2]) - before
                    figures["cpu_us"] = used_s / figures.pop("calls") * 1e6
                    seen.setdefault((connections, name), []).append(figures)
    return [
        {"connections": n, "echo": _medians(seen[n, "echo"]), "act": _medians(seen[n, "act"])}
        for n in CONNECTIONS
    ]


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table: Act, the echo server, and Act's share of what the echo server does."""
    print(f"{'connections':>11} {'':>6} {'calls/s':>9} {'p50 µs':>9} {'p99 µs':>9} {'cpu µs':>9}")
    for row in rows:
        act, echo = row["act"], row["echo"]
        for name, figures in (("echo", echo), ("Act", act)):
            values = " ".join(f"{figures[key]:>9.0f}" for key in act)
            print(f"{row['connections']:>11} {name:>6} {values}")
        ratios = " ".join(f"{act[key] / echo[key]:>9.2f}" for key in act)
        print(f"{row['connections']:>11} {'ratio':>6} {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--echo", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.echo:
        asyncio.run(serve_echo(arguments.echo))
    elif arguments.load:
        address, connections, seconds = arguments.load
        print(json.dumps(asyncio.run(call_for(address, int(connections), float(seconds)))))
    else:
        rows = measure(arguments.rounds, arguments.seconds)
        show(rows)
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
