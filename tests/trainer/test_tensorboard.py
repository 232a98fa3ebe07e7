"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from services.common.errors import InvalidConfig
from services.common.registry import Evaluation
from services.common.settings import load
from services.trainer import settings as trainer_settings
from services.trainer.runs.history import HistoryWriter
from services.trainer.runs.session import RunSession
from services.trainer.runs.tensorboard import TensorBoardLog
from services.trainer.settings import TrainerSettings
from tutelage.v1 import training_pb2 as pb


def judged(mean: float, low: float = 0.0, high: float = 0.0) -> Evaluation:
    return Evaluation(episodes=3, mean_return=mean, min_return=low, max_return=high)


class Work:
    """A time that a run is at work."""

    def __init__(self, folder: Path, env_steps: int = 0, episodes: int = 0) -> None:
        self.board = TensorBoardLog(folder / "board")
        self.history = HistoryWriter(folder / "history.jsonl")
        self.session = RunSession(self.history, self.board.take)
        self.session.episodes = episodes
        self.session.begun(env_steps)

    def progress(self, env_steps: int) -> None:
        self.session.progress("training", env_steps, 1000, "env steps", now=True)

    def end(self) -> None:
        self.history.close()
        self.board.close()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = EventAccumulator(str(folder / "board"), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def test_what_a_run_tells_is_what_tensorboard_reads(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.session.episode(10, 10.0, 10)
    work.session.episode(40, 30.0, 30)
    work.progress(50)
    work.session.metrics(50, {"loss": 0.5, "epsilon": 0.25})
    work.session.evaluated(50, judged(20.0, 5.0, 30.0))
    work.session.episode(60, 20.0, 20)
    work.progress(70)
    work.end()
    found = curves(tmp_path)
    assert found.pop("run/env_steps_per_second")[0] == (50, 0)
    assert found == {
        "rollout/return": [(50, 20), (70, 20)],
        "rollout/length": [(50, 20), (70, 20)],
        "rollout/return_mean_100": [(50, 20), (70, 20)],
        "learner/loss": [(50, 0.5)],
        "learner/epsilon": [(50, 0.25)],
        "evaluation/mean_return": [(50, 20)],
        "evaluation/min_return": [(50, 5)],
        "evaluation/max_return": [(50, 30)],
    }


def test_a_run_that_goes_on_continues_its_curves_without_doubled_points(tmp_path: Path) -> None:
    first = Work(tmp_path)
    for steps in (100, 200, 300):
        first.session.evaluated(steps, judged(float(steps)))
        if steps == 200:
            first.session.checkpoint_saved(steps)
    first.end()
    again = Work(tmp_path, env_steps=200)
    for steps in (250, 300, 400):
        again.session.evaluated(steps, judged(-float(steps)))
    again.end()
    assert curves(tmp_path)["evaluation/mean_return"] == [
        (100, 100),
        (200, 200),
        (250, -250),
        (300, -300),
        (400, -400),
    ]
    anew = Work(tmp_path)
    anew.session.evaluated(100, judged(1.0))
    anew.end()
    assert curves(tmp_path)["evaluation/mean_return"] == [(100, 1)]


def test_what_was_told_before_a_checkpoint_outlives_a_crash(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.session.evaluated(100, judged(7.0))
    work.session.checkpoint_saved(100)
    assert curves(tmp_path)["evaluation/mean_return"] == [(100, 7)]  # nobody closed the file
    work.end()


def test_a_run_goes_on_without_a_disk_for_it(tmp_path: Path) -> None:
    (tmp_path / "board").write_text("in the way")
    work = Work(tmp_path)
    work.session.evaluated(100, judged(7.0))
    work.end()
    assert (tmp_path / "board").read_text() == "in the way"


def test_a_run_that_does_not_train_writes_nothing(tmp_path: Path) -> None:
    board = TensorBoardLog(tmp_path / "board")
    progress = pb.RunProgress(phase="rendering", done=1, total=60, unit="segments")
    board.take(pb.RunEvent(progress=progress))
    board.take(pb.RunEvent(metrics=pb.Metrics(env_steps=1, values={"loss": math.nan})))
    board.close()
    assert not (tmp_path / "board").exists()


def test_what_cannot_be_written_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_settings, "find_spec", lambda name: None)
    assert load(TrainerSettings).resources().tensorboard is None
    monkeypatch.setenv("TUTELAGE_TENSORBOARD", "true")
    with pytest.raises(InvalidConfig, match="the tensorboard package is not installed"):
        load(TrainerSettings)


@pytest.mark.parametrize(
    ("wanted", "folder"), [("true", Path("data/tensorboard")), ("false", None)]
)
def test_the_setting_turns_it_on_and_off(
    wanted: str, folder: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_TENSORBOARD", wanted)
    monkeypatch.setenv("TUTELAGE_DATA_DIR", "data")
    assert load(TrainerSettings).resources().tensorboard == folder
