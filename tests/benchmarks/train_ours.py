"""Trains with Tutelage, as one JSON argument says, and answers with a line of JSON.

    train_ours.py '{"preset": "cartpole-dqn", "overrides": {…}, "seed": 0, "judged": true,
                    "warm_up_steps": 0, "threshold": 475, "profile": false}'

The run is the trainer's own: Valkey, evaluations and what they publish included, unless it is not
`judged`. warm_up_steps: trained before, in a run that is thrown away. threshold: the run is stopped
when the mean return of the last 20 training episodes reaches it; null: never. With `profile`, the
answer has the share of time of each part.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from train_clock import Clock

from services.common.embedded_redis import EmbeddedRedis
from services.common.registry import PolicyRegistry
from services.trainer.config import load_preset
from services.trainer.resources import Resources
from services.trainer.runs import execute as execution
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunStore
from tutelage.v1 import training_pb2 as pb

WINDOW = 20


class Indifferent:
    """Publishes nothing, and never has enough."""

    def __init__(self, *args: object) -> None:
        pass

    def consider(self, *args: object) -> bool:
        return False

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


class Watch:
    """Times a run by its events, from when it says that it is running, and stops it."""

    def __init__(self, threshold: float | None) -> None:
        self._threshold, self._returns = threshold, deque[float](maxlen=WINDOW)
        self._started = time.perf_counter()
        self.session: RunSession | None = None
        self.reached_s: float | None = None
        self.env_steps, self.wall_s = 0, 0.0

    def bind(self, session: RunSession) -> None:
        """The run that is to be stopped."""
        self.session = session

    def take(self, event: pb.RunEvent) -> None:
        """An event of the run."""
        passed = time.perf_counter() - self._started
        if event.status_changed.status == pb.RUN_STATUS_RUNNING:
            self._started = time.perf_counter()
        elif event.HasField("progress"):
            self.env_steps, self.wall_s = event.progress.done, passed
        elif event.HasField("episode_ended"):
            self._returns.append(event.episode_ended.episode_return)
            if self._is_reached() and self.session is not None:
                self.reached_s = passed
                self.session.stop()

    def _is_reached(self) -> bool:
        if self._threshold is None or self.reached_s is not None or len(self._returns) < WINDOW:
            return False
        return sum(self._returns) / WINDOW >= self._threshold


def train(request: Mapping[str, Any], overrides: Mapping[str, Any], clock: Clock | None) -> Watch:
    """One run, in folders and with a Valkey of its own."""
    texts = {key: json.dumps(value) for key, value in overrides.items()}
    config = load_preset(request["preset"], texts, request["seed"])
    watch = Watch(request["threshold"])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedRedis(folder / "redis"))
        if not request["judged"]:
            stack.enter_context(patch.object(execution, "Publisher", Indifferent))
        stack.enter_context(clock.watching() if clock else nullcontext())
        registry = PolicyRegistry(str(folder / "policies"))
        resources = Resources(server.url, registry, "", folder / "reward_models")
        run = RunStore(folder / "runs").create(request["preset"], config)
        execution.execute(run, resources, listener=watch.take, on_session=watch.bind)
    return watch


def main() -> None:
    request = json.loads(sys.argv[1])
    overrides = request["overrides"]
    if request["warm_up_steps"]:
        train(request, overrides | _ending_at(request, request["warm_up_steps"]), None)
    if request["steps"]:
        overrides |= _ending_at(request, request["steps"])
    clock = Clock() if request["profile"] else None
    watch = train(request, overrides, clock)
    answer = {
        "wall_s": watch.wall_s,
        "env_steps": watch.env_steps,
        "reached_s": watch.reached_s,
        "shares": clock.shares(watch.wall_s) if clock else None,
    }
    print(json.dumps(answer))


def _ending_at(request: Mapping[str, Any], steps: int) -> dict[str, Any]:
    algorithm = load_preset(request["preset"]).algorithm
    never = dict.fromkeys(("evaluation.period", "checkpoint.period"), 10**9)
    return {f"{algorithm}.total_env_steps": steps, **never}


if __name__ == "__main__":
    main()
