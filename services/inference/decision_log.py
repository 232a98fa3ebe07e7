"""Logs what was decided, in Parquet files that are there whole or not at all.

What is decided waits in memory until a file is due; nothing of it is written by who decides, and
where the writing does not keep up, or the disk is full, what is more than there is room for is
left out, and counted.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from services.common.errors import InvalidConfig, PreconditionFailed
from services.common.parquet import pyarrow
from services.common.registry import PolicyManifest
from services.common.registry.store import FolderStore
from services.common.spec import PolicySpec
from services.inference import metrics
from services.inference.batching import Asked, Question
from services.inference.decision_rows import NOTHING, Asking, Columns, Decided, asking, is_sampled
from services.inference.distribution import Decisions, Masks, Seeds
from services.inference.encoding import values_of
from services.inference.runner import Observations

log = structlog.get_logger()

GROUP_ROWS = 256  # that are made into columns at once
RETRY_S = 5.0
_NUMBERS = 1 << 64


@dataclass(frozen=True)
class LogLimits:
    """How much is logged, and when a file is written.

    rate: of the decisions that are logged, in (0, 1].
    rows, seconds: at which a file is written.
    bytes: of memory, of all that is to be written together, at which the largest file is. Twice
        as much is held at most.
    """

    rate: float = 1.0
    rows: int = 100_000
    seconds: float = 60.0
    bytes: int = 32 << 20


class DecisionLog:
    """Writes files below a folder: `<policy>/<time>-<who>-<number>.parquet`.

    Args:
        url: of the folder, for fsspec.

    Raises:
        InvalidConfig: when pyarrow is not installed.
    """

    def __init__(self, url: str, limits: LogLimits) -> None:
        try:
            self._pa, self._pq = pyarrow("decisions")
        except PreconditionFailed as error:
            raise InvalidConfig(f"TUTELAGE_INFERENCE_DECISION_LOG: {error}") from None
        self.limits, self._store = limits, FolderStore(url, "")
        self._me, self._written = secrets.token_hex(4), 0
        self._lock = threading.Lock()  # of the two below
        self._held, self._next = 0, secrets.randbits(64)
        self._queue: queue.SimpleQueue[tuple[Columns, Decided] | None] = queue.SimpleQueue()
        self._files: dict[tuple[str, str], _File] = {}
        self._retry_at, self._trouble = 0.0, ""
        self._thread = threading.Thread(target=self._work, name="decision-log", daemon=True)
        self._thread.start()

    def of(self, manifest: PolicyManifest) -> Logged:
        """What logs the decisions of a version, as an Observer."""
        return Logged(
            self, manifest, Columns(self._pa, manifest.policy, manifest.spec, self.limits.rate)
        )

    def degraded(
        self,
        policy: str,
        spec: PolicySpec,
        asked: Asked,
        observation: Observations,
        mask: Masks | None,
        action: npt.NDArray[np.generic],
    ) -> None:
        """Log a default action; observation, mask and action have one row."""
        numbers = self.numbers(1)
        if not _chosen(numbers, self.limits.rate).any():
            return
        one = Asking(1, asked, observation, mask, 1.0, None, None, slice(None), False, None, None)
        nothing = np.zeros((1, spec.parameters), np.float32)
        decided = Decided(time.time(), 0, "", True, [one], numbers, action, np.zeros(1), nothing)
        self.add(Columns(self._pa, policy, spec, self.limits.rate), decided)

    def numbers(self, count: int) -> Seeds:
        """Of so many decisions."""
        with self._lock:
            first, self._next = self._next, (self._next + count) % _NUMBERS
        return np.arange(count, dtype=np.uint64) + np.uint64(first)

    def add(self, columns: Columns, decided: Decided) -> None:
        """Have decisions written in time, or count them as left out; never waits."""
        with self._lock:
            fits = self._held + decided.size <= 2 * self.limits.bytes
            self._held += decided.size if fits else 0
        if fits:
            self._queue.put((columns, decided))
        else:
            metrics.LOG_DROPPED.labels(columns.policy).inc(len(decided.numbers))

    def close(self, timeout_s: float) -> None:
        """Write what has come, and stop."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while self._take():
            self._write_due()
        for file in list(self._files.values()):
            if not self._write(file):
                self._drop(file)

    def _take(self) -> bool:
        """Wait for decisions, or until a file is due; whether there may be more."""
        try:
            item = self._queue.get(timeout=self._idle_s())
        except queue.Empty:
            return True
        if item is None:
            return False
        columns, decided = item
        file = self._files.setdefault(columns.key, _File(columns))
        try:
            file.add(decided)
        except Exception as error:  # noqa: BLE001 - the thread has to live on
            self._failed(error)
            self._drop(file)
        return True

    def _idle_s(self) -> float | None:
        if not self._files:
            return None
        due = min(file.begun for file in self._files.values()) + self.limits.seconds
        return max(0.0, max(due, self._retry_at) - time.monotonic())

    def _write_due(self) -> None:
        now, limits = time.monotonic(), self.limits
        if now < self._retry_at:
            return
        for file in list(self._files.values()):
            if file.rows >= limits.rows or now >= file.begun + limits.seconds:
                self._write(file)
        while self._files and sum(f.size for f in self._files.values()) >= limits.bytes:
            if not self._write(max(self._files.values(), key=lambda file: file.size)):
                return

    def _write(self, file: _File) -> bool:
        """Whether that went well; if not, it is tried again."""
        try:
            content = file.content(self._pa, self._pq)
            self._store.replace(self._path(file.columns.policy), content)
        except Exception as error:  # noqa: BLE001 - any file system may be behind the store
            self._failed(error)
            return False
        if self._trouble:
            self._trouble = ""
            log.info("decisions are logged again")
        self._written += 1
        metrics.LOG_ROWS.labels(file.columns.policy).inc(file.rows)
        self._forget(file)
        return True

    def _failed(self, error: Exception) -> None:
        metrics.LOG_ERRORS.inc()
        self._retry_at = time.monotonic() + RETRY_S
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.error("decisions cannot be logged", folder=self._store.url, reason=str(error))

    def _drop(self, file: _File) -> None:
        metrics.LOG_DROPPED.labels(file.columns.policy).inc(file.rows)
        self._forget(file)

    def _forget(self, file: _File) -> None:
        del self._files[file.columns.key]
        with self._lock:
            self._held -= file.size

    def _path(self, policy: str) -> str:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        return f"{policy}/{now}-{self._me}-{self._written:06}.parquet"


class Logged:
    """Logs the decisions of one version; see Observer."""

    def __init__(self, log: DecisionLog, manifest: PolicyManifest, columns: Columns) -> None:
        self._log, self._manifest, self._columns = log, manifest, columns

    def ran(self, questions: Sequence[Question], decisions: Decisions, seconds: float) -> None:
        """See Observer."""
        rows = len(decisions.log_probabilities)
        try:
            numbers = _numbers(questions, self._log.numbers(rows))
            chosen = _chosen(numbers, self._columns.rate)
            if chosen.any():
                self._log.add(self._columns, self._decided(questions, decisions, numbers, chosen))
        except Exception:
            metrics.LOG_DROPPED.labels(self._manifest.policy).inc(rows)
            log.exception("decisions cannot be logged")

    def failed(self, question: Question) -> None:
        """There is no decision."""

    def _decided(
        self, questions: Sequence[Question], decisions: Decisions, numbers: Seeds, chosen: Masks
    ) -> Decided:
        asked, start = list[Asking](), 0
        for question in questions:
            values = values_of(question, decisions, start) if question.with_value else None
            own = asking(question, chosen[start : start + question.rows], values)
            if own is not None:
                asked.append(own)
            start += question.rows
        return Decided(
            time.time(),
            self._manifest.version,
            self._manifest.sha256,
            False,
            asked,
            numbers[chosen],
            np.asarray(decisions.actions)[chosen],
            np.array(decisions.log_probabilities)[chosen],
            decisions.parameters[chosen],
        )


def _numbers(questions: Sequence[Question], numbers: Seeds) -> Seeds:
    """The numbers given, and those of decisions that have one already."""
    start = 0
    for question in questions:
        for row, decision in enumerate((question.asked or NOTHING).decisions, start):
            numbers[row] = int(decision.number, 16)
        start += question.rows
    return numbers


def _chosen(numbers: Seeds, rate: float) -> Masks:
    return np.ones(len(numbers), np.bool_) if rate >= 1 else is_sampled(numbers, rate)


@dataclass
class _File:
    """What is to be written to one file: batches that came last are not columns yet."""

    columns: Columns
    begun: float = field(default_factory=time.monotonic)
    rows: int = 0
    size: int = 0
    _batches: list[Any] = field(default_factory=list)
    _parts: list[Decided] = field(default_factory=list)
    _waiting: int = 0

    def add(self, decided: Decided) -> None:
        self._parts.append(decided)
        self.rows += len(decided.numbers)
        self.size += decided.size
        self._waiting += len(decided.numbers)
        if self._waiting >= GROUP_ROWS:
            self._make_columns()

    def content(self, pa: Any, pq: Any) -> bytes:
        self._make_columns()
        sink = pa.BufferOutputStream()
        table = pa.Table.from_batches(self._batches, self.columns.schema)
        pq.write_table(table, sink, compression="zstd")
        content: bytes = sink.getvalue().to_pybytes()
        return content

    def _make_columns(self) -> None:
        if self._parts:
            self._batches.append(self.columns.batch(self._parts))
            self._parts, self._waiting = [], 0
