"""Watches a canary that answers a share of the calls, and takes it out when it does worse."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.inference.batching import Question
from services.inference.distribution import Decisions
from services.inference.split import Split

RUNS = 200  # that are looked back on
FEWEST_RUNS = 100
EVERY = 25
SLOWEST_SHARE = 0.9
LEAST_S = 1e-3  # by which a canary must be slower, for less is noise
WITHIN_S = 60.0


@dataclass(frozen=True)
class CanaryLimits:
    """What a canary may do.

    errors: so many questions within a minute that it could not answer, and stable can.
    slower: how many times as long as stable nine in ten of its batches may take.
    """

    errors: int = 3
    slower: float = 3.0


class CanaryGuard:
    """Sees what the two sides of a split do, and says once why the canary must go.

    Args:
        stop: told "errors" or "latency", and the whole reason; from any thread.
    """

    def __init__(
        self, split: Split, limits: CanaryLimits, stop: Callable[[str, str], None]
    ) -> None:
        self.split, self._limits, self._stop = split, limits, stop
        self._canary_s: deque[float] = deque(maxlen=RUNS)
        self._stable_s: deque[float] = deque(maxlen=RUNS)
        self._errors: deque[float] = deque(maxlen=limits.errors)
        self._runs, self._over = 0, False
        self._sides = (split.canary.batcher, _Canary(self)), (split.stable.batcher, _Stable(self))

    def attach(self) -> None:
        """Begin to watch."""
        for batcher, side in self._sides:
            batcher.observers = (*batcher.observers, side)

    def detach(self) -> None:
        """See nothing any more."""
        for batcher, side in self._sides:
            batcher.observers = tuple(o for o in batcher.observers if o is not side)

    def stable_ran(self, seconds: float) -> None:
        """A batch of the stable version."""
        self._stable_s.append(seconds)

    def canary_ran(self, seconds: float) -> None:
        """A batch of the canary."""
        self._canary_s.append(seconds)
        self._runs += 1
        if self._runs % EVERY == 0:
            self._look_at_latency()

    def canary_failed(self, question: Question) -> None:
        """The canary could not answer; it is to blame if the stable version can."""
        try:
            self.split.stable.batcher.runner.run(question.observations, question.masks)
        except Exception:  # noqa: BLE001 - whatever it is, it is the question's fault
            return
        now = time.monotonic()
        self._errors.append(now)
        if len(self._errors) == self._limits.errors and self._errors[0] > now - WITHIN_S:
            self._end(
                "errors",
                f"it could not answer {self._limits.errors} questions within {WITHIN_S:g} s that "
                f"version {self.split.stable.manifest.version} answers",
            )

    def _look_at_latency(self) -> None:
        canary, stable = list(self._canary_s), list(self._stable_s)
        if min(len(canary), len(stable)) < FEWEST_RUNS:
            return
        mine, others = _slowest(canary), _slowest(stable)
        if mine > max(self._limits.slower * others, others + LEAST_S):
            self._end(
                "latency",
                f"the slowest tenth of its batches take {mine * 1e3:.2g} ms and more, those of "
                f"version {self.split.stable.manifest.version} {others * 1e3:.2g} ms",
            )

    def _end(self, kind: str, reason: str) -> None:
        if not self._over:
            self._over = True
            self._stop(kind, reason)


def _slowest(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(SLOWEST_SHARE * len(seconds))]


class _Canary:
    def __init__(self, guard: CanaryGuard) -> None:
        self._guard = guard

    def ran(self, questions: Sequence[Question], decisions: Decisions, seconds: float) -> None:
        self._guard.canary_ran(seconds)

    def failed(self, question: Question) -> None:
        self._guard.canary_failed(question)


class _Stable:
    def __init__(self, guard: CanaryGuard) -> None:
        self._guard = guard

    def ran(self, questions: Sequence[Question], decisions: Decisions, seconds: float) -> None:
        self._guard.stable_ran(seconds)

    def failed(self, question: Question) -> None:
        """It may be the question's fault."""
