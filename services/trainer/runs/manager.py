"""The queue of runs: a process a run, so many at a time; crashed ones are taken up again."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import structlog
from prometheus_client import Gauge

from services.common.errors import DataCorrupted, PreconditionFailed
from services.trainer.config import load_preset
from services.trainer.kept import CheckpointFolder
from services.trainer.runs.history import HistoryWriter
from services.trainer.runs.metrics import RunFigures, figures_of
from services.trainer.runs.store import ENDED, RunFolder, RunStore, RunView
from services.trainer.runs.workers import Workers
from tutelage.v1 import training_pb2 as pb

log = structlog.get_logger()
POLL_S = 0.2
MAX_CRASHES = 3
MOST_LISTED = 1_000  # a reply of gRPC takes 4 MiB, and a run about 2.6 KiB
RUNS = Gauge("tutelage_trainer_runs", "Runs by status.", ["status"])


@dataclass
class _Crashes:
    """Deaths in a row without a new checkpoint."""

    count: int = 0
    checkpoint: int = 0

    def add(self, checkpoint: int) -> int:
        self.count = 1 if checkpoint > self.checkpoint else self.count + 1
        self.checkpoint = checkpoint
        return self.count


@dataclass
class RunManager:
    """Owns the runs below a folder. Made and used on one event loop, in the main thread:
    workers die with the thread that started them.

    `at_work` is what running runs say of themselves; any thread may look at it.

    Args:
        store: where runs are kept.
        parallel_runs: how many are at work at once.
        starter: gives a run its process.
    """

    store: RunStore
    parallel_runs: int = 1
    starter: Workers = field(default_factory=Workers)
    at_work: tuple[RunFigures, ...] = ()
    _views: dict[str, RunView] = field(default_factory=dict)
    _workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _crashes: dict[str, _Crashes] = field(default_factory=dict)
    _stopping: set[str] = field(default_factory=set)
    _unreadable: set[str] = field(default_factory=set)
    _closing: bool = False

    def start(
        self, preset: str, overrides: Mapping[str, str], seed: int | None, request_id: str
    ) -> pb.Run:
        """Queue a run; the same request_id gives the same run.

        Raises:
            InvalidConfig: when preset, override or seed cannot be run.
        """
        if request_id:
            for view in self._all():
                if view.request_id == request_id:
                    return view.run
        config = load_preset(preset, overrides, seed)
        folder = self.store.create(preset, config, request_id)
        log.info("run queued", run_id=folder.run_id)
        return self.get(folder.run_id)

    def get(self, run_id: str) -> pb.Run:
        """A run's state.

        Raises:
            NotFound: when there is no such run.
        """
        view = self._view(self.store.get(run_id))
        if view.refresh().status == pb.RUN_STATUS_QUEUED:
            # Asked four times a second by everyone who follows a run: of what is known.
            known = [v for run_id, v in self._views.items() if run_id not in self._unreadable]
            self._give_places(known)
        return view.run

    def newest_first(self, policy: str = "", limit: int = MOST_LISTED) -> list[pb.Run]:
        """Runs, newest first, of one policy or all; `limit` of them at most."""
        runs = (view.run for view in reversed(self._all()))
        found = (run for run in runs if not policy or run.policy == policy)
        return list(islice(found, limit))

    async def stop(self, run_id: str) -> pb.Run:
        """Have a run save a checkpoint and stop; returns once it has.

        Raises:
            NotFound: when there is no such run.
            PreconditionFailed: when it has ended, or a process of somebody else runs it.
        """
        view = self._view(self.store.get(run_id))
        run = view.refresh()
        if run.status in ENDED:
            raise PreconditionFailed(f"run {run_id} is not at work, it has ended")
        worker = self._workers.get(run_id)
        if worker is None:
            with view.folder.locked():
                _write_status(view.folder, pb.RUN_STATUS_STOPPED)
            return view.refresh()
        self._stopping.add(run_id)
        worker.send_signal(signal.SIGUSR1)  # to which Python, while it starts, has no words
        await self._gone(run_id)
        return view.refresh()

    def resume(self, run_id: str) -> pb.Run:
        """Queue a stopped or failed run again.

        Raises:
            NotFound: when there is no such run.
            PreconditionFailed: when it is queued, running or succeeded.
        """
        view = self._view(self.store.get(run_id))
        run = view.refresh()
        if run.status not in (pb.RUN_STATUS_STOPPED, pb.RUN_STATUS_FAILED):
            raise PreconditionFailed(
                f"run {run_id} is {_name(run.status)}; only stopped and failed runs are resumed"
            )
        with view.folder.locked():
            _write_status(view.folder, pb.RUN_STATUS_QUEUED)
        self._crashes.pop(run_id, None)
        view.refresh()
        run = self.get(run_id)
        # A crash may have kept it from telling of its last one.
        run.checkpoint_env_steps = max(CheckpointFolder(view.folder.checkpoints).steps(), default=0)
        return run

    async def work(self) -> None:
        """Start queued runs and look after running ones, until `close`."""
        while not self._closing:
            self._reap()
            self._fill()
            self.starter.make_ready()
            await asyncio.sleep(POLL_S)

    async def close(self, timeout_s: float) -> None:
        """Have every worker save a checkpoint and end; the next start takes its run up again."""
        self._closing = True
        self.starter.close()
        for worker in self._workers.values():
            worker.send_signal(signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._workers and asyncio.get_running_loop().time() < deadline:
            self._reap()
            await asyncio.sleep(POLL_S / 4)
        for worker in self._workers.values():
            worker.kill()
            worker.wait()

    async def _gone(self, run_id: str) -> None:
        while run_id in self._workers:  # noqa: ASYNC110 - `work` polls processes anyway
            await asyncio.sleep(POLL_S / 2)

    def _reap(self) -> None:
        for run_id, worker in list(self._workers.items()):
            code = worker.poll()
            if code is None:
                continue
            del self._workers[run_id]
            self._take_end(self._views[run_id], code)

    def _take_end(self, view: RunView, code: int) -> None:
        run = view.refresh()
        stopping = run.run_id in self._stopping
        self._stopping.discard(run.run_id)
        if run.status in ENDED or view.folder.is_locked():  # or at work elsewhere
            return
        if stopping:  # before it had begun to listen
            _write_status(view.folder, pb.RUN_STATUS_STOPPED)
        elif run.status == pb.RUN_STATUS_RUNNING or (code and not self._closing):
            self._crashed(view, code)

    def _crashed(self, view: RunView, code: int) -> None:
        run = view.refresh()
        cause = f"signal {-code}" if code < 0 else f"exit code {code}"
        count = self._crashes.setdefault(run.run_id, _Crashes()).add(run.checkpoint_env_steps)
        if count >= MAX_CRASHES:
            reason = f"its process died {count} times without a new checkpoint ({cause})"
            _write_status(view.folder, pb.RUN_STATUS_FAILED, reason)
        else:
            _write_status(view.folder, pb.RUN_STATUS_QUEUED, f"its process died ({cause})")
        log.warning("run's process died", run_id=run.run_id, cause=cause, deaths=count)

    def _fill(self) -> None:
        views = self._views_of_all(refresh=lambda view: view.run.status not in ENDED)
        for status in pb.RunStatus.values():
            RUNS.labels(_name(status)).set(sum(view.run.status == status for view in views))
        self._take_up_orphans(views)
        for view in _queue(views):
            if len(self._workers) >= self.parallel_runs:
                break
            # A run that is locked is at work elsewhere, such as in `tutelage train`.
            if view.run.run_id not in self._workers and not view.folder.is_locked():
                self._launch(view.folder)
        self._give_places(views)
        self.at_work = tuple(figures_of(v) for v in views if v.run.status == pb.RUN_STATUS_RUNNING)

    def _take_up_orphans(self, views: list[RunView]) -> None:
        """Queue runs again whose process died together with the trainer before this one."""
        for view in views:
            if view.run.status != pb.RUN_STATUS_RUNNING or view.run.run_id in self._workers:
                continue
            with suppress(PreconditionFailed), view.folder.locked():  # else at work elsewhere
                if view.refresh().status == pb.RUN_STATUS_RUNNING:
                    _write_status(view.folder, pb.RUN_STATUS_QUEUED, "its trainer went away")
                    view.refresh()

    def _give_places(self, views: list[RunView]) -> None:
        free = max(self.parallel_runs - len(self._workers), 0)
        waiting = [view for view in _queue(views) if view.run.run_id not in self._workers]
        for view in views:
            view.run.queue_place = 0
        for i, view in enumerate(waiting[free:], start=1):
            view.run.queue_place = i

    def _launch(self, folder: RunFolder) -> None:
        process = self._workers[folder.run_id] = self.starter.start(folder.run_id)
        log.info("run started", run_id=folder.run_id, pid=process.pid)

    def _all(self) -> list[RunView]:
        """Every run as of now, oldest first."""
        views = self._views_of_all(refresh=lambda view: True)
        self._give_places(views)
        return views

    def _views_of_all(self, refresh: Callable[[RunView], bool]) -> list[RunView]:
        """Every run that can be read, oldest first; others must not hold up the queue."""
        views = []
        for folder in self.store.all():
            if folder.run_id in self._unreadable:
                continue
            try:
                view = self._view(folder)
                if refresh(view):
                    view.refresh()
                views.append(view)
            except DataCorrupted as error:
                log.error("run cannot be read", run_id=folder.run_id, reason=str(error))
                self._unreadable.add(folder.run_id)
        return views

    def _view(self, folder: RunFolder) -> RunView:
        if folder.run_id not in self._views:
            self._views[folder.run_id] = RunView(folder)
            self._views[folder.run_id].refresh()
        return self._views[folder.run_id]


def _write_status(folder: RunFolder, status: pb.RunStatus.ValueType, reason: str = "") -> None:
    history = HistoryWriter(folder.history)
    change = pb.RunStatusChanged(status=status, reason=reason)
    history.write(pb.RunEvent(status_changed=change), durable=True)
    history.close()


def _queue(views: Iterable[RunView]) -> list[RunView]:
    """Those that wait, in the order of their turns."""
    waiting = (view for view in views if view.run.status == pb.RUN_STATUS_QUEUED)
    return sorted(waiting, key=lambda view: view.queued_ns)


def _name(status: pb.RunStatus.ValueType) -> str:
    return pb.RunStatus.Name(status).removeprefix("RUN_STATUS_").lower()
