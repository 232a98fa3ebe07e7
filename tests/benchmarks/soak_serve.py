"""Whether the inference service lasts: steady load, new versions, hostile callers, for minutes.

    python tests/benchmarks/soak_serve.py [--minutes 10] [--share 0.7] [--transport auto]

First as many calls as the callers manage, for a few seconds; then a share of that rate for the
time asked, while a version is published and promoted every 10 s, callers of the worst kinds come
and go (see soak_hostile.py), and one reports what came of its decisions while the Redis that keeps
them is killed every minute and comes back (see soak_outcomes.py). Prints what it saw every 10 s
and, at the end, a table; writes build/bench/soak.json. Exit code 1 when a call failed that nobody
meant to fail, a wrong call was not answered as it must be, no outcome counted after the last
death, or the service holds on to memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from inference_process import InferenceProcess
from soak_hostile import ACT, Hostility, harass
from soak_outcomes import MortalRedis, act_and_report, mortal_redis
from tiny_policies import dense_model, publish, random_layers

from services.common.registry import PolicyRegistry
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1.array_pb2 import Array

REPORT = Path("build/bench/soak.json")
LAYERS = [4, 64, 64, 2]
CONNECTIONS = 8
FINDING_OUT_S = 5.0
RELOAD_S = 10.0
DEATH_S = 60.0
MEMORY_EVERY_S = 1.0
# What may come on top between the second fifth of the time and the last, for allocators.
MEMORY_GROWTH = 1.05


@dataclass
class Seen:
    """What came of the calls of one stretch of time."""

    latencies_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    versions: set[int] = field(default_factory=set)


async def call_on(channel: grpc.aio.Channel, seen: Seen, until: float, period_s: float) -> None:
    """Call at a steady rate, or one call after another where the period is 0."""
    act = channel.unary_unary(ACT, response_deserializer=pb.ActResponse.FromString)
    request = pb.ActRequest(observation=Array(values=[0.01, 0.02, 0.03, 0.04], shape=[4]))
    content = request.SerializeToString()
    due = time.perf_counter()
    while (started := time.perf_counter()) < until:
        try:
            answer = await act(content, timeout=10)
        except grpc.aio.AioRpcError as error:
            seen.failures[f"{error.code().name}: {error.details()}"] += 1
        else:
            seen.versions.add(answer.version)
            seen.latencies_s.append(time.perf_counter() - started)
        due = max(due + period_s, time.perf_counter() - 1.0)  # what was missed is not made up for
        await asyncio.sleep(max(due - time.perf_counter(), 0))


async def load(channels: list[grpc.aio.Channel], seconds: float, rate: float | None) -> Seen:
    """Calls over all connections, at `rate` calls/s in all or as quickly as they go."""
    seen, until = Seen(), time.perf_counter() + seconds
    period_s = 0.0 if rate is None else len(channels) / rate
    await asyncio.gather(*(call_on(channel, seen, until, period_s) for channel in channels))
    return seen


async def publish_on(registry: PolicyRegistry) -> None:
    """A version after another, promoted."""
    for seed in range(1_000_000):
        await asyncio.sleep(RELOAD_S)
        model = dense_model(random_layers(LAYERS, seed=seed))
        await asyncio.to_thread(publish, registry, model)


async def watch_memory(process: psutil.Process, sizes: list[int]) -> None:
    """Resident bytes, once a second."""
    while True:
        sizes.append(process.memory_info().rss)
        await asyncio.sleep(MEMORY_EVERY_S)


async def soak(
    service: InferenceProcess,
    registry: PolicyRegistry,
    redis: MortalRedis,
    minutes: float,
    share: float,
) -> dict[str, Any]:
    """Find out how much goes, then go on at a share of it."""
    alone = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.aio.insecure_channel(service.address, options=alone) for _ in range(CONNECTIONS)
    ]
    most = len((await load(channels, FINDING_OUT_S, None)).latencies_s) / FINDING_OUT_S
    print(f"{most:,.0f} calls/s at the most; {share:.0%} of that for {minutes:g} minutes")
    hostility, sizes, stretches = Hostility(), list[int](), list[Seen]()
    outcomes = list[Counter[str]]()
    said = Counter[str]()
    beside = [
        asyncio.create_task(work)
        for work in (
            publish_on(registry),
            harass(service.address, hostility),
            act_and_report(service.address, said),
            redis.die_every(min(DEATH_S, 20 * minutes)),
            watch_memory(psutil.Process(service.process.pid), sizes),
        )
    ]
    ends = time.monotonic() + 60 * minutes
    while (left := ends - time.monotonic()) > 0:
        before = said.copy()
        stretches.append(await load(channels, min(RELOAD_S, left), most * share))
        outcomes.append(said - before)
        _say(stretches[-1], left, sizes[-1])
    for task in beside:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await asyncio.gather(*(channel.close() for channel in channels))
    report = {"redis_killed": redis.deaths, "outcomes": dict(said)}
    kept_up = outcomes[-1]["counted"] > 0 and not any("failed" in word for word in said)
    return report | _summary(most, stretches, hostility, sizes, kept_up)


def _say(seen: Seen, left: float, resident: int) -> None:
    p50, p99 = np.percentile(seen.latencies_s, [50, 99]) * 1e3
    print(
        f"  {left:4.0f} s left · {len(seen.latencies_s):,} calls · p50 {p50:.2f} ms · "
        f"p99 {p99:.2f} ms · {seen.failures.total()} failed · version {max(seen.versions)} · "
        f"{resident / 1e6:.0f} MB",
        flush=True,
    )


def _summary(
    most: float, stretches: list[Seen], hostility: Hostility, sizes: list[int], kept_up: bool
) -> dict[str, Any]:
    latencies = np.concatenate([seen.latencies_s for seen in stretches]) * 1e3
    fifth = max(len(sizes) // 5, 1)
    early, late = statistics.median(sizes[fifth : 2 * fifth]), statistics.median(sizes[-fifth:])
    return {
        "calls_per_s_at_most": most,
        "calls": len(latencies),
        "failures": dict(sum((seen.failures for seen in stretches), Counter())),
        "versions": len(set().union(*(seen.versions for seen in stretches))),
        "p50_ms": float(np.percentile(latencies, 50)),
        "p99_ms": float(np.percentile(latencies, 99)),
        "p999_ms": float(np.percentile(latencies, 99.9)),
        "max_ms": float(latencies.max()),
        "hostile": dict(hostility.done),
        "answered_wrongly": dict(hostility.wrong),
        "resident_bytes_early": early,
        "resident_bytes_late": late,
        "held": bool(
            kept_up
            and not any(seen.failures for seen in stretches)
            and not hostility.wrong
            and late <= early * MEMORY_GROWTH
        ),
    }


def _show(report: dict[str, Any]) -> None:
    for key, value in report.items():
        print(f"{key:>22}  {value:,.2f}" if isinstance(value, float) else f"{key:>22}  {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--transport", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = PolicyRegistry(str(folder / "policies"))
        publish(registry, dense_model(random_layers(LAYERS)))
        with mortal_redis(folder / "redis") as redis:
            service = InferenceProcess(
                folder / "policies",
                folder / "log",
                inference_poll_s=1,
                inference_transport=arguments.transport,
                redis_url=redis.url,
            )
            try:
                report = asyncio.run(
                    soak(service, registry, redis, arguments.minutes, arguments.share)
                )
            finally:
                service.stop()
    report = {"transport": arguments.transport, **report}
    _show(report)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(0 if report["held"] else 1)


if __name__ == "__main__":
    main()
