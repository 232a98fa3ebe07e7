"""What Prometheus is told of replays, and of a Redis that is away."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from replay_rig import SCHEMA, make_rows

from services.common.embedded_redis import EmbeddedRedis
from services.common.replay import Limits, ReplayProducer, ReplayStore, connect
from services.common.replay.metrics import ReplayCollector


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedRedis:
    """One with no replays but the test's."""
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server:
        yield server


def test_every_replay_is_told_until_it_is_removed(valkey: EmbeddedRedis) -> None:
    registry = CollectorRegistry()
    registry.register(ReplayCollector(lambda: connect(valkey.url)))

    def value(metric: str, replay: str = "first") -> float | None:
        return registry.get_sample_value(f"tutelage_replay_{metric}", {"replay": replay})

    assert registry.get_sample_value("tutelage_replay_up") == 1
    assert value("rows") is None
    with connect(valkey.url) as client:
        store = ReplayStore(client, "first", SCHEMA, 15, limits=Limits(8, 200))
        ReplayProducer(store).append(make_rows(1, range(9)))
        assert value("sample_ratio") == 0
        assert value("mirror_lag_rows") is None
        store.shards[0].tail(0, 100, sampled=18)
        ReplayProducer(store).append(make_rows(2, range(9)))
        ReplayStore(client, "second", SCHEMA, 15)
        assert (value("rows"), value("capacity_rows")) == (15, 15)
        assert (value("appended_rows_total"), value("inserted_steps_total")) == (20, 18)
        assert (value("sampled_rows_total"), value("sample_ratio")) == (18, 1)
        assert value("mirror_lag_rows") == 10
        assert value("producers") == 2
        assert value("waits_total") == 0
        assert value("append_rows_per_second") > 0
        assert value("bytes") > 15 * SCHEMA.row_bytes
        assert value("oldest_age_seconds") >= 0
        assert value("oldest_age_seconds", "second") is None
        assert value("sample_ratio", "second") is None
        assert value("rows", "second") == 0
        store.remove()
    assert value("rows") is None


def test_a_redis_that_is_away_is_told_and_one_that_is_back_too(valkey: EmbeddedRedis) -> None:
    registry = CollectorRegistry()
    registry.register(ReplayCollector(lambda: connect(valkey.url)))
    valkey.stop()
    assert registry.get_sample_value("tutelage_replay_up") == 0
    valkey.start()
    assert registry.get_sample_value("tutelage_replay_up") == 1
