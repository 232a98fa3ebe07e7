"""Whether what is asked is still what was trained on."""

from __future__ import annotations

import urllib.error
import urllib.request

import numpy as np
import pytest
from inference_process import InferenceProcess
from tiny_policies import linear_model, publish

from services.common.observation_statistics import MOST, measured, statistics_of
from services.common.ports import free_port
from services.common.registry import ObservationStatistics, PolicyRegistry
from services.inference.drift import drift, unusual

STEADY = ObservationStatistics(count=100, mean=(0.0, 0.0, 0.0, 0.0), std=(1.0, 1.0, 0.5, 0.0))


def test_statistics_are_of_each_element() -> None:
    found = statistics_of(np.array([[0.0, 2.0], [4.0, 2.0]], np.float32))
    assert found == ObservationStatistics(count=2, mean=(2.0, 2.0), std=(2.0, 0.0))


def test_parts_come_one_after_another_and_numbers_alone() -> None:
    rows = np.zeros(3, [("x", "f4", (2,)), ("n", "i8")])
    rows["x"], rows["n"] = [[1, 2]] * 3, [3, 4, 5]
    assert measured(rows).tolist() == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]
    assert measured(np.array([7, 8])).tolist() == [[7], [8]]


def test_of_large_observations_it_is_their_mean() -> None:
    pictures = np.stack([np.full((MOST, 2), 10, np.uint8), np.full((MOST, 2), 20, np.uint8)])
    assert measured(pictures).tolist() == [[10], [20]]


def test_how_far_the_mean_has_moved_in_deviations_of_training() -> None:
    observations = np.array([[1.0, 0.0], [3.0, 0.0]])
    assert drift(observations, np.array([0.0, 0.0]), np.array([4.0, 1.0])) == 0.5
    assert drift(observations, np.array([2.0, 1.0]), np.array([4.0, 0.5])) == 2.0


def test_observations_with_one_number_far_off_are_unusual() -> None:
    observations = np.array([[4.0, 0.0], [6.0, 0.0], [0.0, -6.0], [0.0, 0.0]])
    assert unusual(observations, np.zeros(2), np.ones(2)) == 0.5


def test_what_never_changed_in_training_may_not_change() -> None:
    mean, std = np.array([3.0]), np.array([0.0])
    assert drift(np.array([[3.0]]), mean, std) == 0
    assert drift(np.array([[3.1]]), mean, std) > 1000


def gauges(port: int, name: str) -> dict[str, float]:
    """A gauge by version."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    found = [line.split() for line in lines if line.startswith(f"{name}{{")]
    return {labels.split('version="')[1].split('"')[0]: float(value) for labels, value in found}


@pytest.fixture
def port() -> int:
    return free_port()


def test_a_service_tells_of_drift(
    registry: PolicyRegistry, start_service: object, port: int
) -> None:
    publish(registry, linear_model(), observations=STEADY)
    service: InferenceProcess = start_service(  # type: ignore[operator]
        inference_metrics_port=port, inference_drift_period_ms=0.001
    )
    name = "tutelage_inference_observation_drift"

    def drifted(by: float, observation: list[float]) -> bool:
        for _ in range(60):
            service.client.act_batch(np.tile(np.array(observation, np.float32), (20, 1)))
        return gauges(port, name).get("1") == pytest.approx(by)

    service.wait_for(lambda: drifted(0.25, [0.25, 0.1, 0.1, 0.0]))
    assert gauges(port, "tutelage_inference_observations_unusual") == {"1": 0.0}
    service.wait_for(lambda: drifted(8.0, [0.0, 0.0, 4.0, 0.0]))
    assert gauges(port, "tutelage_inference_observations_unusual") == {"1": 1.0}

    publish(registry, linear_model((1.0, 0.0)))  # which does not say what it was trained on
    service.wait_until_serving("cartpole", 2)
    service.wait_for(lambda: gauges(port, name) == {})
