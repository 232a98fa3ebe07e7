"""A histogram for Prometheus that takes the values of a whole batch at once.

prometheus_client's own takes a lock and walks all buckets for every value, 1 µs each time;
where a batch of calls is answered in a few microseconds a call, that shows. Here values are
only noted down, and sorted into buckets when somebody looks or there are many of them.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

NOTED = 1024  # at most, about; calls of `observe_all`


class Series:
    """The values of one label."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._lock = threading.Lock()  # of counts and sum
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._noted: deque[Iterable[float]] = deque()  # which takes no lock of ours

    def observe(self, value: float) -> None:
        """Count a value."""
        self.observe_all((value,))

    def observe_all(self, values: Iterable[float]) -> None:
        """Count values, which must not change any more."""
        self._noted.append(values)
        if len(self._noted) >= NOTED:
            with self._lock:
                self._sort()

    def snapshot(self) -> tuple[list[int], float]:
        """How many values are within each bound, those of lower ones included, and their sum."""
        with self._lock:
            self._sort()
            return list(accumulate(self._counts)), self._sum

    def _sort(self) -> None:
        bounds, counts = self._bounds, self._counts
        for _ in range(len(self._noted)):
            for value in self._noted.popleft():
                counts[bisect_left(bounds, value)] += 1
                self._sum += value


class Histogram(Collector):
    """Counts values in buckets, by one label.

    Args:
        buckets: upper bounds, themselves within, in rising order; infinity comes by itself.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        label: str,
        buckets: Sequence[float],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._name, self._documentation, self._label = name, documentation, label
        self._bounds = tuple(buckets)
        self._names = [*(f"{float(bound)}" for bound in self._bounds), "+Inf"]
        self._lock = threading.Lock()
        self._series: dict[str, Series] = {}
        registry.register(self)

    def labels(self, value: str) -> Series:
        """The series of a label's value."""
        with self._lock:
            return self._series.setdefault(value, Series(self._bounds))

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """The metric without values, for the registry."""
        return [self._family()]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric, for an exposition."""
        family = self._family()
        with self._lock:
            series = dict(self._series)
        for value, each in series.items():
            counts, total = each.snapshot()
            buckets = list(zip(self._names, map(float, counts), strict=True))
            family.add_metric([value], buckets, total)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
