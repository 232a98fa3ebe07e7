"""Histograms that note values down and sort them later."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, generate_latest

from services.common.histogram import NOTED, Histogram


def made() -> tuple[Histogram, CollectorRegistry]:
    registry = CollectorRegistry()
    return Histogram("waits", "Waits.", "policy", buckets=(1, 2, 4), registry=registry), registry


def test_values_are_in_the_buckets_they_are_within() -> None:
    histogram, registry = made()
    histogram.labels("a").observe_all([0.5, 1, 1.5, 4, 9])
    histogram.labels("a").observe(3)

    said = generate_latest(registry).decode()

    for bound, count in (("1.0", 2), ("2.0", 3), ("4.0", 5), ("+Inf", 6)):
        assert f'waits_bucket{{le="{bound}",policy="a"}} {count}.0' in said
    assert 'waits_count{policy="a"} 6.0' in said
    assert 'waits_sum{policy="a"} 19.0' in said


def test_what_threads_note_at_once_is_counted_once() -> None:
    series = made()[0].labels("a")
    each = 3 * NOTED

    def note() -> None:
        for _ in range(each):
            series.observe_all((1.0, 3.0))

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        series.snapshot()
    for thread in threads:
        thread.join()

    counts, total = series.snapshot()
    assert counts == [4 * each, 4 * each, 8 * each, 8 * each]
    assert total == 16.0 * each


def test_what_waits_to_be_sorted_is_bounded() -> None:
    series = made()[0].labels("a")
    for _ in range(3 * NOTED):
        series.observe(1)
    assert len(series._noted) < NOTED
