"""A version that is shown what the stable one is asked, and whose decisions are compared only."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import structlog

from services.common.gathering import Gatherer
from services.inference import metrics
from services.inference.batching import Question, joined_masks
from services.inference.comparing import Parameters, compare
from services.inference.distribution import Decisions, Masks
from services.inference.runner import Observations
from services.inference.versions import ServedVersion

log = structlog.get_logger()

WAITING = 64  # batches; what comes beyond is not looked at
NICENESS = 10


class _Batch(NamedTuple):
    """What was asked together, and what the stable version gave; nothing of the calls."""

    observations: list[Observations]
    masks: list[Masks | None]
    parameters: Parameters


class Shadow:
    """Shows batches of the stable version to another, in a thread that gives way to all others.

    Args:
        share: of the batches that are shown.
    """

    def __init__(
        self, policy: str, stable: ServedVersion, shadow: ServedVersion, share: float
    ) -> None:
        self.stable, self.shadow, self.share = stable, shadow, share
        self._policy, self._nice, self._said = policy, False, False
        self._showing = Gatherer[_Batch]("shadow", self._show, WAITING)

    def attach(self) -> None:
        """Begin to look."""
        self.stable.batcher.observers = (*self.stable.batcher.observers, self)

    def detach(self) -> None:
        """Look no more."""
        batcher = self.stable.batcher
        batcher.observers = tuple(o for o in batcher.observers if o is not self)
        self._showing.close(0)

    def ran(self, questions: Sequence[Question], decisions: Decisions, seconds: float) -> None:
        """See Observer; what is too much is left out."""
        if self.share < 1 and random.random() >= self.share:
            return
        batch = _Batch(
            [question.observations for question in questions],
            [question.masks for question in questions],
            decisions.parameters,
        )
        if not self._showing.add(batch):
            metrics.SHADOW_SKIPPED.labels(self._policy).inc(len(decisions.log_probabilities))

    def failed(self, question: Question) -> None:
        """There is nothing to compare with."""

    def _show(self, batches: list[_Batch]) -> None:
        self._give_way()
        for batch in batches:
            try:
                self._compare(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody waits for it
                metrics.SHADOW_ERRORS.labels(self._policy).inc()
                if not self._said:
                    self._said = True
                    version = self.shadow.manifest.version
                    log.warning(
                        "shadow fails", policy=self._policy, version=version, reason=str(error)
                    )

    def _compare(self, batch: _Batch) -> None:
        observations = np.concatenate(batch.observations)
        masks = joined_masks(
            batch.masks, [len(part) for part in batch.observations], self.stable.spec.actions
        )
        others = self.shadow.batcher.runner.run(observations, masks)
        apart = compare(self.stable.spec, batch.parameters, self.shadow.spec, others, masks)
        metrics.SHADOW_ROWS.labels(self._policy).inc(len(apart.differ))
        metrics.SHADOW_DIFFERS.labels(self._policy).inc(int(apart.differ.sum()))
        metrics.SHADOW_KL.labels(self._policy).observe_all(np.maximum(apart.divergence, 0).tolist())

    def _give_way(self) -> None:
        if not self._nice:
            self._nice = True
            with suppress(OSError, AttributeError):  # threads have a niceness on Linux alone
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
