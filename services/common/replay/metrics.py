"""What replays tell Prometheus. They are looked at when it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from services.common.errors import InvalidInput, NotFound, ReplayDataLost, TutelageError
from services.common.replay.connection import Client
from services.common.replay.inspect import Description, describe
from services.common.replay.store import ReplayStore, list_replays

Family = GaugeMetricFamily | CounterMetricFamily
Value = Callable[[Description], float | None]

log = structlog.get_logger()

# name: (help, value); None for what is not known.
GAUGES: dict[str, tuple[str, Value]] = {
    "rows": ("Rows in the ring.", lambda d: d.rows),
    "capacity_rows": ("Rows the ring holds.", lambda d: d.capacity),
    "bytes": ("Memory of Redis that it takes.", lambda d: d.bytes),
    "append_rows_per_second": ("Appended of late.", lambda d: d.rows_per_s),
    "samples_per_second": ("Sampled of late.", lambda d: d.samples_per_s),
    "oldest_age_seconds": ("Since the oldest rows were appended.", lambda d: d.oldest_age_s),
    "sample_ratio": ("Times a step was sampled, on average.", lambda d: d.sample_ratio),
    "mirror_lag_rows": ("Rows that the learner has not copied.", lambda d: d.behind),
    "producers": ("Producers that appended within the last minute.", lambda d: d.producers),
}
COUNTERS: dict[str, tuple[str, Value]] = {
    "appended_rows": ("Rows ever appended.", lambda d: d.appended),
    "inserted_steps": ("Steps ever appended.", lambda d: d.inserted),
    "sampled_rows": ("Rows ever sampled.", lambda d: d.sampled),
    "waits": ("Chunks that the limits told to wait.", lambda d: d.waits),
}


class ReplayCollector(Collector):
    """Gauges and counters of every replay in a Redis, labelled by its name.

    Args:
        client: makes the connection, when it is first needed.
    """

    def __init__(self, client: Callable[[], Client]) -> None:
        self._connect = client
        self._client: Client | None = None

    def describe(self) -> Iterable[Family]:
        """Nothing: so that being registered does not connect."""
        return ()

    def collect(self) -> Iterable[Family]:
        """Look at the replays now; one figure alone says so when Redis does not answer."""
        up = GaugeMetricFamily("tutelage_replay_up", "Whether the replays' Redis answers.")
        try:
            found = self._look()
        except TutelageError as error:
            log.warning("replays cannot be looked at", error=str(error))
            up.add_metric((), 0)
            return [up]
        up.add_metric((), 1)
        gauges = _families(GaugeMetricFamily, GAUGES, found)
        return [up, *gauges, *_families(CounterMetricFamily, COUNTERS, found)]

    def _look(self) -> list[Description]:
        if self._client is None:
            self._client = self._connect()
        found = []
        for name in list_replays(self._client):
            try:
                found.append(describe(ReplayStore.open_existing(self._client, name)))
            except (NotFound, InvalidInput, ReplayDataLost) as error:  # removed, or another's
                log.warning("a replay cannot be looked at", replay=name, error=str(error))
        return found


def _families(
    kind: Callable[..., Family],
    metrics: dict[str, tuple[str, Value]],
    found: list[Description],
) -> list[Family]:
    families = []
    for name, (about, value) in metrics.items():
        family = kind(f"tutelage_replay_{name}", about, labels=["replay"])
        for one in found:
            if (known := value(one)) is not None:
                family.add_metric([one.name], known)
        families.append(family)
    return families
