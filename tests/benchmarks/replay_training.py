"""What training through the replay in Redis costs beside the same ring in memory alone."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "trainer"))

from learning_rig import learn_dqn

from services.common.registry import PolicyRegistry
from services.common.replay import MemoryReplay, Sampling
from services.common.replay.policy_schema import replay_schema
from services.trainer.config import DQNRun, ReplayConfig, load_preset
from services.trainer.resources import Resources
from services.trainer.runs import replay_loop

STEPS = 4_000
COMPARISONS = 3
NEVER = str(10**9)


@dataclass(frozen=True)
class Spent:
    """Seconds that passed, and seconds of processor time."""

    wall_s: float
    cpu_s: float


class Training:
    """One DQN run, again and again: cartpole-dqn's settings, neither evaluated nor published.

    Both ways draw the same numbers, and so take the same steps and make the same updates.

    cpu_ratios: of the processor time that trainer and server took, which other work on the
        machine disturbs least; one for each call of `ratio`.
    """

    def __init__(self, url: str, folder: Path, steps: int = STEPS) -> None:
        torch.set_num_threads(1)  # as the trainer does
        registry = PolicyRegistry(str(folder / "policies"))
        self._resources = Resources(url, registry, "", folder / "reward_models")
        self._folder, self._numbers = folder, count()
        self.cpu_ratios: list[float] = []
        self._config = self._configured(steps)
        self._time(self._configured(1500))  # what is loaded and compiled once

    def ratio(self) -> float:
        """Time through Redis over time in memory: the median of a few comparisons.

        Each is of four short runs, in the order in which a machine that becomes slower or faster
        favours neither.
        """
        pairs = [self._compare() for _ in range(COMPARISONS)]
        self.cpu_ratios.append(median(cpu for _, cpu in pairs))
        return median(wall for wall, _ in pairs)

    def _compare(self) -> tuple[float, float]:
        """Ratios of the time that passed, and of processor time."""
        memory = [self.in_memory()]
        redis = [self.through_redis(), self.through_redis()]
        memory.append(self.in_memory())
        wall = sum(r.wall_s for r in redis) / sum(r.wall_s for r in memory)
        return wall, sum(r.cpu_s for r in redis) / sum(r.cpu_s for r in memory)

    def through_redis(self) -> Spent:
        """A run whose replay is in Redis."""
        return self._time(self._config)

    def in_memory(self) -> Spent:
        """A run whose replay is in this process."""
        with patch.object(replay_loop, "_open", _in_memory):
            return self._time(self._config)

    def _time(self, config: DQNRun) -> Spent:
        folder = self._folder / f"run-{next(self._numbers)}"
        folder.mkdir(parents=True)
        wall_s, cpu_s = time.perf_counter(), self._cpu_s()
        learn_dqn(config, self._resources, folder)
        return Spent(time.perf_counter() - wall_s, self._cpu_s() - cpu_s)

    def _cpu_s(self) -> float:
        server: Any = self._resources.redis.info("cpu")
        return time.process_time() + server["used_cpu_user"] + server["used_cpu_sys"]

    @staticmethod
    def _configured(steps: int) -> DQNRun:
        changes = {
            "dqn.total_env_steps": str(steps),
            "evaluation.period": NEVER,
            "checkpoint.period": NEVER,
        }
        config = load_preset("cartpole-dqn", changes, None)
        assert isinstance(config, DQNRun)
        return config


def _in_memory(
    _: DQNRun, replay: ReplayConfig, sampling: Sampling, parts: replay_loop.ReplayParts
) -> MemoryReplay:
    schema = replay_schema(parts.spec, replay.frame_stack, replay.frame_pad)
    return MemoryReplay(schema, replay.capacity, sampling)
