"""How a served policy gets better by its own traffic: `make bench-outcomes`.

A policy that has learnt nothing is served on CartPole. Clients act ε-greedily through gRPC and
report; a run of `cartpole-continual` learns from that and publishes, and its versions answer from
then on. Prints a line a version, and draws what the clients' episodes returned.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from inference_process import InferenceProcess  # noqa: E402

from services.common.embedded_redis import EmbeddedRedis  # noqa: E402
from services.common.registry import PolicyManifest, PolicyRegistry  # noqa: E402
from services.trainer.config import ContinualRun, load_preset  # noqa: E402
from services.trainer.evaluate import evaluate  # noqa: E402
from services.trainer.export import Exporter  # noqa: E402
from services.trainer.networks import QNetwork  # noqa: E402
from services.trainer.publishing import greedy  # noqa: E402
from services.trainer.runs.execute import values_spec  # noqa: E402
from services.trainer.weights import WEIGHTS, save_weights  # noqa: E402
from tutelage import AsyncClient, AsyncSession  # noqa: E402

mpl.use("svg")
from matplotlib import pyplot as plt  # noqa: E402 - once it is said how to draw

PLOT = ROOT / "docs" / "images" / "outcomes.svg"
CLIENTS, EPSILON, SMOOTHED = 16, 0.1, 20
PATIENT_S = 120.0  # the machine may have other things to do


@dataclass
class Seen:
    """What clients met: of each episode the decisions made before its end, its return, and the
    version that ended it."""

    decisions: int = 0
    episodes: list[tuple[int, float, int]] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)


def publish_untrained(registry: PolicyRegistry, config: ContinualRun) -> float:
    """A fresh network as `stable`; the mean return that it was judged by."""
    torch.manual_seed(config.seed)
    spec = values_spec(config.environment)
    network = QNetwork(spec, config.network)
    judged = evaluate(greedy(network), config.environment, 20, seed=1)

    def describe(version: int, digest: str) -> PolicyManifest:
        return PolicyManifest(
            policy=config.policy,
            version=version,
            spec=spec,
            algorithm="dqn",
            run_id="untrained",
            env_steps=0,
            evaluation=judged.summary,
            sha256=digest,
            published_at=datetime.now(UTC),
        )

    model = Exporter(spec).export(network, judged.observations)
    registry.publish(config.policy, model, describe, {WEIGHTS: save_weights(network)})
    registry.set_alias(config.policy, "stable", 1)
    return judged.summary.mean_return


async def play(client: AsyncClient, policy: str, seed: int, seen: Seen, most: int) -> None:
    """One client: episode after episode, until all together have decided so often."""
    env, session = gym.make("CartPole-v1"), AsyncSession(client, policy=policy)
    observation, _ = env.reset(seed=seed)
    total = 0.0
    while seen.decisions < most:
        decision = await session.act(observation, epsilon=EPSILON, timeout_s=PATIENT_S)
        seen.decisions += 1
        seen.first.setdefault(decision.version, seen.decisions)
        observation, reward, terminated, truncated, _ = env.step(decision.action)
        total += float(reward)
        await session.report(observation, float(reward), terminated, truncated, timeout_s=PATIENT_S)
        if terminated or truncated:
            seen.episodes.append((seen.decisions, total, decision.version))
            observation, _ = env.reset()
            total = 0.0


async def drive(address: str, policy: str, most: int) -> Seen:
    """All clients side by side."""
    seen = Seen()
    async with AsyncClient(address) as client:
        players = (play(client, policy, seed, seen, most) for seed in range(CLIENTS))
        await asyncio.gather(*players)
    return seen


def learn(folder: Path, redis_url: str, seed: int) -> subprocess.Popen[bytes]:
    """The run, as anybody would start it."""
    program = "from services.cli import main; main()"
    own = {
        "TUTELAGE_DATA_DIR": str(folder),
        "TUTELAGE_REDIS_URL": redis_url,
        "TUTELAGE_TENSORBOARD": "false",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'clients' / 'python'}",
    }
    command = [sys.executable, "-c", program, "train", "cartpole-continual", "--seed", str(seed)]
    return subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL)


def draw(seen: Seen) -> None:
    """Returns of the clients' episodes over the decisions that were reported."""
    at, returns, _ = (np.array(column) for column in zip(*seen.episodes, strict=True))
    smooth = [returns[max(0, i - SMOOTHED) : i + 1].mean() for i in range(len(returns))]
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    axes.plot(at, returns, ".", markersize=3, color="#9db4c9", label="an episode")
    axes.plot(at, smooth, color="#1f5f99", label=f"mean of {SMOOTHED}")
    for version, first in seen.first.items():
        axes.axvline(first, color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.annotate(f"v{version}", (first, 505), fontsize=7, color="#777777")
    axes.set_xlabel("decisions answered and reported")
    axes.set_ylabel("return")
    axes.set_ylim(0, 530)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT)


def report(seen: Seen, seconds: float) -> None:
    """A line for each version that answered."""
    print(f"{'version':>8} {'first decision':>15} {'episodes':>9} {'mean return':>12}")
    for version, first in seen.first.items():
        own = [r for _, r, v in seen.episodes if v == version]
        mean = f"{np.mean(own):12.1f}" if own else " " * 12
        print(f"{version:>8} {first:>15,} {len(own):>9,} {mean}")
    rate = seen.decisions / seconds
    print(f"{seen.decisions:,} decisions of {CLIENTS} clients in {seconds:.0f} s ({rate:.0f}/s)")


def main() -> None:
    """Serve, drive, learn, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = load_preset("cartpole-continual", seed=options.seed)
    assert isinstance(config, ContinualRun)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis(Path(name) / "valkey") as valkey:
        folder = Path(name)
        registry = PolicyRegistry(str(folder / "policies"))
        print(f"untrained: mean return {publish_untrained(registry, config):.1f}")
        service = InferenceProcess(folder / "policies", folder / "log", redis_url=valkey.url)
        learning = learn(folder, valkey.url, options.seed)
        try:
            started = time.perf_counter()
            seen = asyncio.run(drive(service.address, config.policy, options.decisions))
            report(seen, time.perf_counter() - started)
            draw(seen)
        finally:
            learning.send_signal(signal.SIGINT)
            learning.wait()
            service.stop()


if __name__ == "__main__":
    main()
