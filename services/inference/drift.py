"""How far what a version is asked has moved from what it was trained on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from services.common.gathering import Gatherer
from services.common.observation_statistics import measured
from services.inference import metrics
from services.inference.batching import Question
from services.inference.distribution import Decisions
from services.inference.runner import Observations
from services.inference.versions import ServedVersion

Floats = npt.NDArray[np.float64]
WINDOW = 1000  # observations
FEWEST = 100
WAITING = 4  # batches
FAR = 5.0  # standard deviations
_LEAST_STD = 1e-6  # of what never changed in training: then any change is far


class Drift:
    """Compares observations with those of the version's manifest, in a thread of its own.

    Args:
        period_s: between two batches that are looked at.
    """

    def __init__(self, policy: str, served: ServedVersion, period_s: float) -> None:
        statistics = served.manifest.observations
        assert statistics is not None
        self.served, self._period_s, self._due = served, period_s, 0.0
        self._labels = policy, str(served.manifest.version)
        self._mean, self._std = np.array(statistics.mean), np.array(statistics.std)
        self._window = np.empty((0, len(self._mean)))
        self._over = False
        self._looking = Gatherer[list[Observations]]("drift", self._look, WAITING)

    def attach(self) -> None:
        """Begin to look."""
        self.served.batcher.observers = (*self.served.batcher.observers, self)

    def detach(self) -> None:
        """Look no more, and say nothing any more."""
        batcher = self.served.batcher
        batcher.observers = tuple(o for o in batcher.observers if o is not self)
        self._over = True
        self._looking.close(0)
        for gauge in (metrics.DRIFT, metrics.UNUSUAL):
            with suppress(KeyError):
                gauge.remove(*self._labels)

    def ran(self, questions: Sequence[Question], decisions: Decisions, seconds: float) -> None:
        """See Observer."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._period_s
            self._looking.add([question.observations for question in questions])

    def failed(self, question: Question) -> None:
        """It has not been answered."""

    def _look(self, batches: list[list[Observations]]) -> None:
        new = [measured(observations)[:WINDOW] for batch in batches for observations in batch]
        self._window = np.concatenate([self._window, *new])[-WINDOW:]
        if len(self._window) < FEWEST or self._over:
            return
        metrics.DRIFT.labels(*self._labels).set(drift(self._window, self._mean, self._std))
        metrics.UNUSUAL.labels(*self._labels).set(unusual(self._window, self._mean, self._std))


def can_drift(served: ServedVersion) -> bool:
    """Whether a version says what its observations were like, and these are such."""
    statistics, nothing = served.manifest.observations, np.zeros(1, served.spec.observation.row)
    if statistics is None:
        return False
    width = measured(nothing).shape[1]
    return (len(statistics.mean), len(statistics.std)) == (width, width)


def drift(observations: Floats, mean: Floats, std: Floats) -> float:
    """How far the mean of observations (n, numbers) is from that of training, in the number that
    moved most, in standard deviations of training."""
    return float((np.abs(observations.mean(axis=0) - mean) / _spread(mean, std)).max())


def unusual(observations: Floats, mean: Floats, std: Floats) -> float:
    """The share of observations (n, numbers) of which a number is further than 5 standard
    deviations from the mean of training."""
    far = np.abs(observations - mean) > FAR * _spread(mean, std)
    return float(far.any(axis=1).mean())


def _spread(mean: Floats, std: Floats) -> Floats:
    return np.maximum(std, _LEAST_STD * np.maximum(1.0, np.abs(mean)))
