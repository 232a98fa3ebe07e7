"""Runs on disk, a folder each:

<run id>/run.json            what was asked for
<run id>/history.jsonl       what happened
<run id>/checkpoints/        see services.trainer.checkpoint
<run id>/lock                held by whatever process is at work on it
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import yaml

from services.common.durable import write_atomically
from services.common.errors import NotFound, PreconditionFailed
from services.common.wire import timestamp
from services.trainer import config as configs
from services.trainer.runs.history import HistoryLine, HistoryReader
from tutelage.v1 import training_pb2 as pb

ENDED = frozenset({pb.RUN_STATUS_SUCCEEDED, pb.RUN_STATUS_STOPPED, pb.RUN_STATUS_FAILED})
# Most of a history, and no part of what a run has come to.
_PASSED_OVER = frozenset({"episode_ended", "policy_evaluated", "reward_model_fitted", "message"})
_ONLY_NEWEST = frozenset({"progress", "metrics"})


@dataclass(frozen=True)
class RunRecord:
    """What was asked for; never changes."""

    run_id: str
    preset: str
    request_id: str
    created_at: str
    config: dict[str, Any]


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history = path / "history.jsonl"
        self.checkpoints = path / "checkpoints"

    @property
    def run_id(self) -> str:
        """The run's unique name."""
        return self.path.name

    @cached_property
    def record(self) -> RunRecord:
        """What was asked for."""
        return RunRecord(**json.loads((self.path / "run.json").read_text()))

    def config(self) -> configs.Run:
        """The run's configuration."""
        return configs.parse(self.record.config, source=self.run_id)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one process at work on the run.

        Raises:
            PreconditionFailed: when another one is.
        """
        with (self.path / "lock").open("w") as file:
            if not _try_lock(file):
                raise PreconditionFailed(f"run {self.run_id} is at work in another process")
            yield

    def is_locked(self) -> bool:
        """Whether a process is at work on the run."""
        with (self.path / "lock").open("w") as file:
            return not _try_lock(file)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class RunStore:
    """All runs below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, RunFolder] = {}
        self._sorted: list[RunFolder] = []

    def create(self, preset: str, config: configs.RunConfig, request_id: str = "") -> RunFolder:
        """A new run's folder, durable on return."""
        now = datetime.now(UTC)
        run_id = f"{preset}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        folder = RunFolder(self._folder / run_id)
        record = RunRecord(
            run_id, preset, request_id, now.isoformat(), config.model_dump(mode="json")
        )
        content = json.dumps(asdict(record), indent=2).encode()
        write_atomically(folder.path / "run.json", content)
        return folder

    def get(self, run_id: str) -> RunFolder:
        """The folder of a run.

        Raises:
            NotFound: when there is no such run.
        """
        path = self._folder / run_id
        if not run_id or "/" in run_id or not (path / "run.json").exists():
            raise NotFound(f"no run {run_id!r}; `tutelage runs` lists them")
        return RunFolder(path)

    def all(self) -> list[RunFolder]:
        """Every run, oldest first."""
        names = set(os.listdir(self._folder)) if self._folder.is_dir() else set()
        gone = self._known.keys() - names
        new = [n for n in names - self._known.keys() if (self._folder / n / "run.json").exists()]
        if new or gone:
            self._known = {name: f for name, f in self._known.items() if name in names}
            self._known |= {name: RunFolder(self._folder / name) for name in new}
            oldest_first = sorted(self._known.values(), key=lambda f: f.record.created_at)
            self._sorted = oldest_first
        return self._sorted


class RunView:
    """A run's state, folded from its history as that grows.

    `queued_ns` is when it took its place in the queue, `metrics` the learner's newest figures.

    Also of runs whose settings are no longer known, as after an upgrade: what they came to
    is still to be seen. Going on with one is refused, by `RunFolder.config`.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        record = folder.record
        self.request_id = record.request_id
        config = record.config
        self._run = pb.Run(
            run_id=record.run_id,
            preset=record.preset,
            algorithm=config.get("algorithm", ""),
            policy=config.get("policy", ""),
            seed=config.get("seed", 0),
            status=pb.RUN_STATUS_QUEUED,
            config_yaml=yaml.safe_dump(config, sort_keys=False),
            created_at=timestamp(datetime.fromisoformat(record.created_at)),
        )
        self._reader = HistoryReader(folder.history)
        self.attempts = 0
        self.queued_ns = self._run.created_at.ToNanoseconds()
        self.metrics: Mapping[str, float] = {}

    @property
    def run(self) -> pb.Run:
        """The state when it was last refreshed."""
        return self._run

    def refresh(self) -> pb.Run:
        """The state as of now."""
        newest: dict[str, HistoryLine] = {}
        for line in self._reader.lines():
            kind = line.kind
            if kind in _ONLY_NEWEST:
                newest[kind] = line
            elif kind not in _PASSED_OVER:
                self._take(line.event())
        for line in newest.values():
            self._take(line.event())
        return self._run

    def _take(self, event: pb.RunEvent) -> None:
        run = self._run
        match event.WhichOneof("event"):
            case "status_changed":
                self._take_status(event)
            case "progress":
                run.progress.CopyFrom(event.progress)
            case "metrics":
                self.metrics = dict(event.metrics.values)
            case "policy_published":
                run.published_versions.append(event.policy_published.version)
            case "checkpoint_saved":
                run.checkpoint_env_steps = event.checkpoint_saved.env_steps
            case _:
                pass

    def _take_status(self, event: pb.RunEvent) -> None:
        run, change = self._run, event.status_changed
        if run.status in ENDED and change.status == pb.RUN_STATUS_QUEUED:
            # Resumed, it takes its place behind those that wait; interrupted, it keeps it.
            self.queued_ns = event.time.ToNanoseconds()
        run.status = change.status
        run.error = change.reason if change.status == pb.RUN_STATUS_FAILED else ""
        run.ClearField("ended_at")
        if change.status in ENDED:
            run.ended_at.CopyFrom(event.time)
        if change.status == pb.RUN_STATUS_RUNNING:
            self.attempts += 1
