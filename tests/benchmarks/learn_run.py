"""One seed of a row: trained by the product's own code, then judged on fresh episodes."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from learn_rows import Row, total_env_steps
from learn_statistics import binned
from torch import nn

from services.common.embedded_redis import EmbeddedRedis
from services.common.registry import PolicyRegistry
from services.trainer import publishing
from services.trainer.config import TrainingConfig
from services.trainer.evaluate import Greedy, Judged, evaluate
from services.trainer.published import PublishedPolicy
from services.trainer.publishing import STABLE, Publisher
from services.trainer.resources import Resources
from services.trainer.runs import execute as execution
from services.trainer.runs.session import Listener
from services.trainer.runs.store import RunStore, RunView
from tutelage.v1 import training_pb2 as pb

JUDGED_EPISODES = 100
FRESH = 2**31  # runs draw their seeds from below
BINS = 100


class RunFailed(Exception):
    """Why a run ended otherwise than it should."""


class Witness:
    """What a run does not write into its history: its last policy, and what judging it took."""

    def __init__(self) -> None:
        self.act: Greedy | None = None
        self.env_steps = 0
        self.evaluation = {"episodes": 0, "steps": 0, "wall_s": 0.0}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See the run that is executed meanwhile."""
        witness = self

        class Watched(Publisher):
            def consider(self, network: nn.Module, act: Greedy, env_steps: int) -> bool:
                witness.act, witness.env_steps = act, env_steps
                return super().consider(network, act, env_steps)

        with (
            patch.object(execution, "Publisher", Watched),
            patch.object(publishing, "evaluate", self._evaluate),
        ):
            yield

    def _evaluate(self, *args: Any, **kwargs: Any) -> Judged:
        started = time.perf_counter()
        judged = evaluate(*args, **kwargs)
        self.evaluation["wall_s"] += time.perf_counter() - started
        self.evaluation["episodes"] += len(judged.returns)
        self.evaluation["steps"] += judged.steps
        return judged


class Curve:
    """Collects a run's learning curve from its events, and passes them on."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.evaluations: list[tuple[int, float]] = []
        self.steps: list[int] = []
        self.returns: list[float] = []

    def take(self, event: pb.RunEvent) -> None:
        """An event of the run."""
        if event.HasField("episode_ended"):
            self.steps.append(event.episode_ended.env_steps)
            self.returns.append(event.episode_ended.episode_return)
        elif event.HasField("policy_evaluated"):
            judged = event.policy_evaluated
            self.evaluations.append((judged.env_steps, round(judged.mean_return, 2)))
        self._listener(event)

    def training(self, total: int) -> list[tuple[int, float]]:
        """Mean return of training episodes by environment steps."""
        curve = binned(self.steps, self.returns, max(1, total // BINS))
        return [(step, round(mean, 2)) for step, mean in curve]


def run_seed(row: Row, seed: int, folder: Path, listener: Listener) -> dict[str, Any]:
    """Train and judge; plain data for the row's file.

    Args:
        folder: an empty one for all that the run writes.

    Raises:
        RunFailed: when the run did not come to its end.
    """
    config, registry = row.config(seed), PolicyRegistry(str(folder / "policies"))
    run = RunStore(folder / "runs").create(row.preset, config)
    witness, curve = Witness(), Curve(listener)
    begun, load = datetime.now(UTC), os.getloadavg()[0]
    with EmbeddedRedis(folder / "redis") as server, witness.watching():
        resources = Resources(server.url, registry, "", folder / "reward_models")
        started = time.perf_counter()
        status = execution.execute(run, resources, listener=curve.take)
        wall_s = time.perf_counter() - started
    if status != pb.RUN_STATUS_SUCCEEDED or witness.act is None:
        raise RunFailed(RunView(run).refresh().error or pb.RunStatus.Name(status))
    stable = PublishedPolicy(registry, config.policy, STABLE)
    return {
        "seed": seed,
        "begun_at": begun.isoformat(timespec="seconds"),
        "load_when_begun": round(load, 1),
        "wall_s": round(wall_s, 1),
        "env_steps": witness.env_steps,
        "training_episodes": len(curve.returns),
        "evaluation": {**witness.evaluation, "wall_s": round(witness.evaluation["wall_s"], 1)},
        "published": {
            "version": stable.manifest.version,
            "env_steps": stable.manifest.env_steps,
            "returns": judge(stable.greedy, config),
        },
        "final": {"env_steps": witness.env_steps, "returns": judge(witness.act, config)},
        "evaluations": curve.evaluations,
        "training": curve.training(total_env_steps(config)),
    }


def judge(act: Greedy, config: TrainingConfig) -> list[float]:
    """Returns of greedy episodes that no run has seen."""
    seed = FRESH + JUDGED_EPISODES * config.seed
    judged = evaluate(act, config.environment, JUDGED_EPISODES, seed)
    return [round(float(value), 2) for value in judged.returns]


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
