"""What Prometheus hears of runs at work, and no longer hears of those that have ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.common.registry import Evaluation
from services.trainer.config import load_preset
from services.trainer.runs.history import HistoryWriter
from services.trainer.runs.manager import RunManager
from services.trainer.runs.metrics import RunCollector
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunStore
from tutelage.v1 import training_pb2 as pb

JUDGED = Evaluation(episodes=2, mean_return=35.0, min_return=30.0, max_return=40.0)


@pytest.fixture
def manager(tmp_path: Path) -> RunManager:
    return RunManager(RunStore(tmp_path), parallel_runs=0)


def told(manager: RunManager, **labels: str) -> dict[str, float]:
    manager._fill()
    registry = CollectorRegistry()
    registry.register(RunCollector(lambda: manager.at_work))
    samples = [sample for family in registry.collect() for sample in family.samples]
    found = [s for s in samples if labels.items() <= s.labels.items()]
    return {
        s.name.removeprefix("tutelage_run_") + s.labels.get("of", "").join(("[", "]")): s.value
        for s in found
    }


def test_a_run_at_work_tells_its_figures(manager: RunManager) -> None:
    folder = manager.store.create("cartpole-dqn", load_preset("cartpole-dqn"))
    history = HistoryWriter(folder.history)
    session = RunSession(history)
    with folder.locked():
        session.status(pb.RUN_STATUS_RUNNING)
        session.episode(20, 20.0, 20)
        session.episode(60, 40.0, 40)
        session.metrics(60, {"loss": 0.5, "value_loss": 2.0, "epsilon": 0.25, "replay_ratio": 4.0})
        session.evaluated(60, JUDGED)
        session.progress("training", 60, 1000, "env steps", now=True)
        found = told(manager, run=folder.run_id, algorithm="dqn")
        assert found == {
            "done[]": 60,
            "rate[]": 0,
            "remaining_seconds[]": 0,
            "episodes[]": 2,
            "mean_return[]": 30,
            "evaluation_return[]": 35,
            "epsilon[]": 0.25,
            "replay_ratio[]": 4,
            "loss[total]": 0.5,
            "loss[value]": 2,
        }
        session.status(pb.RUN_STATUS_SUCCEEDED)
    history.close()
    assert told(manager) == {}


def test_what_is_not_known_yet_is_not_told(manager: RunManager) -> None:
    folder = manager.store.create("cartpole-ppo", load_preset("cartpole-ppo"))
    history = HistoryWriter(folder.history)
    with folder.locked():
        RunSession(history).status(pb.RUN_STATUS_RUNNING)
        found = told(manager, run=folder.run_id)
    history.close()
    assert found.keys() == {"done[]", "rate[]", "remaining_seconds[]", "episodes[]"}
