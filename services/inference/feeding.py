"""The thread that puts what is joined into the replays, and forgets what is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from services.common.errors import TutelageError
from services.inference import metrics
from services.inference.outcome_stores import OutcomeStores

log = structlog.get_logger()

PERIOD_S = 0.2
SWEEP_S = 5.0


class Feeding:
    """Feeds the replays of all policies, until closed; trouble is logged, and waited out."""

    def __init__(self, stores: OutcomeStores) -> None:
        self._stores = stores
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="feeding", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Put in what is joined by now, as far as Redis answers, and stop."""
        self._stopped.set()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        with suppress(TutelageError):  # Redis need not be there yet
            self._stores.connect_ahead()
        trouble, sweep_due = "", 0.0
        while not self._stopped.wait(PERIOD_S):
            said = self._for_each(self._move)
            if time.monotonic() >= sweep_due:
                sweep_due = time.monotonic() + SWEEP_S
                said = said or self._for_each(self._sweep)
            if said and said != trouble:
                log.error("outcomes wait", reason=said)
            trouble = said
        self._for_each(self._move)
        self._for_each(lambda policy: self._stores.feeder(policy).close())

    def _for_each(self, do: Callable[[str], None]) -> str:
        """What was last said by one that could not."""
        said = ""
        for policy in self._stores.policies:
            try:
                do(policy)
            except Exception as error:  # noqa: BLE001 - the thread has to live on
                metrics.FEED_ERRORS.labels(policy).inc()
                said = str(error)
        return said

    def _move(self, policy: str) -> None:
        while moved := self._stores.feeder(policy).move():
            metrics.JOINED.labels(policy).inc(moved)

    def _sweep(self, policy: str) -> None:
        metrics.FORGOTTEN.labels(policy).inc(self._stores.waiting(policy).record([]))
