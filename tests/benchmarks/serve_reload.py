"""What callers notice of a new version: calls' times while versions come, and while none does."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from serve_load import Target, latencies_us
from tiny_policies import dense_model, publish, random_layers

from services.common.registry import PolicyRegistry

CONNECTIONS = 8
SECONDS = 4
EVERY_S = 1.0  # a version; the service looks for them as often
ASKED = 2.0  # times the 99th percentile without

Report = dict[str, float]


def measure_reloads(
    target: Target, registry: PolicyRegistry, layers: list[int], rounds: int
) -> Report:
    """Medians of the rounds: p99 in µs with versions coming and without, calls that failed."""
    calm, busy, failed, versions = [], [], 0, 0
    for _ in range(rounds):
        took, lost = latencies_us(target, CONNECTIONS, SECONDS)
        calm.append(float(np.percentile(took, 99)))
        with _versions_coming(registry, layers) as came:
            took, lost_meanwhile = latencies_us(target, CONNECTIONS, SECONDS)
        busy.append(float(np.percentile(took, 99)))
        failed += lost + lost_meanwhile
        versions += len(came)
    return {
        "p99_us": statistics.median(calm),
        "p99_reloading_us": statistics.median(busy),
        "times": statistics.median(b / c for b, c in zip(busy, calm, strict=True)),
        "failed": failed,
        "versions": versions,
    }


def show_reloads(report: Report) -> None:
    """Print the figures beside what is asked."""
    print(
        f"\n{report['versions']:.0f} versions came, one a second, at {CONNECTIONS} connections: "
        f"p99 {report['p99_reloading_us']:.0f} µs, without {report['p99_us']:.0f} µs, "
        f"{report['times']:.2f} times (asked: ≤ {ASKED:g}); {report['failed']:.0f} calls failed"
    )


@contextmanager
def _versions_coming(registry: PolicyRegistry, layers: list[int]) -> Iterator[list[int]]:
    came: list[int] = []
    stop = threading.Event()
    models = [dense_model(random_layers(layers, seed)) for seed in range(SECONDS + 2)]

    def come() -> None:
        for model in models:
            if stop.wait(EVERY_S):
                return
            came.append(publish(registry, model))

    thread = threading.Thread(target=come)
    thread.start()
    try:
        yield came
    finally:
        stop.set()
        thread.join()
