"""Recording what published policies do, into a real feedback service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_policies
from feedback_rig import FeedbackProcess

from services.trainer.config import load_preset
from services.trainer.resources import Resources
from services.trainer.runs.execute import execute
from services.trainer.runs.history import HistoryReader
from services.trainer.runs.recording import lots
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunFolder, RunStore, RunView
from services.trainer.segments import Source
from tutelage.v1 import feedback_pb2
from tutelage.v1 import training_pb2 as pb

SEGMENTS, LENGTH = 12, 10
TINY = {
    "recording.segments": str(SEGMENTS),
    "recording.length": str(LENGTH),
    "recording.episodes": "4",
}


class Recording:
    """Runs of a test's own policy; a pole that leans is pushed back up."""

    def __init__(self, folder: Path, resources: Resources, feedback: FeedbackProcess, policy: str):
        self.runs, self.feedback, self.policy = RunStore(folder / "runs"), feedback, policy
        self.resources = replace(resources, feedback_address=feedback.address)
        tiny_policies.publish(
            resources.registry, tiny_policies.linear_model(), policy=policy, alias="stable"
        )

    def start(self, **changes: str) -> RunFolder:
        settings = load_preset("cartpole-segments", TINY | {"policy": self.policy} | changes)
        return self.runs.create("cartpole-segments", settings)

    def execute(self, folder: RunFolder, **more: Any) -> pb.RunStatus.ValueType:
        return execute(folder, self.resources, **more)

    @property
    def segments(self) -> int:
        return int(self.feedback.progress(self.policy).segments)

    def shown(self, pairs: int) -> list[feedback_pb2.Segment]:
        """Segments as people are shown them."""
        for _ in range(pairs):
            self.feedback.submit(self.feedback.next_pair(self.policy))
        return list(self.feedback.preferences(self.policy, include_segments=True).segments)


@pytest.fixture
def recording(
    tmp_path: Path,
    resources: Resources,
    shared_feedback: FeedbackProcess,
    request: pytest.FixtureRequest,
) -> Recording:
    name = str(request.node.name).replace("_", "-")[:60]
    return Recording(tmp_path, resources, shared_feedback, name)


def error_of(folder: RunFolder) -> str:
    return RunView(folder).refresh().error


def test_segments_of_each_policy_are_ready_to_be_compared(recording: Recording) -> None:
    other = tiny_policies.linear_model((0.05, 0.0))
    tiny_policies.publish(
        recording.resources.registry, other, policy=recording.policy, alias="canary"
    )
    folder = recording.start(aliases="[stable, canary]", **{"recording.length": "5"})
    assert recording.execute(folder) == pb.RUN_STATUS_SUCCEEDED, error_of(folder)
    assert recording.segments == SEGMENTS
    events = list(HistoryReader(folder.history).read())
    texts = [e.message.text for e in events if e.HasField("message")]
    assert texts == [f"{SEGMENTS} segments are ready to be compared"]
    counts = {e.progress.phase: e.progress for e in events if e.HasField("progress")}
    assert (counts["drawing clips"].done, counts["drawing clips"].total) == (SEGMENTS, SEGMENTS)
    shown = recording.shown(pairs=8)
    assert {s.policy_version for s in shown} == {1, 2}
    assert {s.length for s in shown} == {5}
    clip = recording.feedback.stub.GetClip(
        feedback_pb2.GetClipRequest(segment_id=shown[0].segment_id)
    ).clip
    assert clip[4:8] == b"ftyp"


def test_a_run_that_was_stopped_while_drawing_goes_on_without_doubles(
    recording: Recording,
) -> None:
    sessions: list[RunSession] = []

    def stop_at_first_batch(event: pb.RunEvent) -> None:
        if event.progress.phase == "drawing clips":
            sessions[-1].stop()

    folder = recording.start()
    status = recording.execute(folder, listener=stop_at_first_batch, on_session=sessions.append)
    assert status == pb.RUN_STATUS_STOPPED
    assert 0 < recording.segments < SEGMENTS
    assert recording.execute(folder) == pb.RUN_STATUS_SUCCEEDED, error_of(folder)
    assert recording.segments == SEGMENTS


def test_another_run_adds_segments_of_its_own(recording: Recording) -> None:
    for seed in ("1", "2"):
        assert recording.execute(recording.start(seed=seed)) == pb.RUN_STATUS_SUCCEEDED
    assert recording.segments == 2 * SEGMENTS


def test_the_same_run_again_adds_nothing_and_says_so(recording: Recording) -> None:
    assert recording.execute(recording.start()) == pb.RUN_STATUS_SUCCEEDED
    folder = recording.start()
    assert recording.execute(folder) == pb.RUN_STATUS_SUCCEEDED
    assert recording.segments == SEGMENTS
    events = HistoryReader(folder.history).read()
    (text,) = [e.message.text for e in events if e.HasField("message")]
    assert text.endswith(f"{SEGMENTS} of them were there already")


def test_episodes_are_shared_out_evenly_and_a_few_at_a_time() -> None:
    one, two = (Source(lambda seen: np.zeros(len(seen), np.int64), v) for v in (1, 2))
    assert lots([one], 40) == [(one, 14), (one, 13), (one, 13)]
    assert lots([one, two], 40) == [(one, 10), (two, 10), (one, 10), (two, 10)]
    assert lots([one, two], 3) == [(one, 2), (two, 2)]


def test_a_run_is_stopped_while_playing(recording: Recording) -> None:
    folder = recording.start()
    status = recording.execute(folder, on_session=lambda session: session.stop())
    assert status == pb.RUN_STATUS_STOPPED
    assert recording.segments == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"aliases": "[gold]"}, "has no version 'gold'; train one first"),
        ({"environment.id": "ProbeReward-v0"}, "ProbeReward-v0 cannot be shown"),
        ({"environment.kwargs.gravitas": "1"}, "gravitas"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
def test_what_cannot_be_recorded_fails_with_the_reason(
    tmp_path: Path, resources: Resources, changes: dict[str, str], expected: str
) -> None:
    tiny_policies.publish(resources.registry, tiny_policies.linear_model())
    settings = load_preset("cartpole-segments", TINY | changes)
    folder = RunStore(tmp_path / "runs").create("cartpole-segments", settings)
    assert execute(folder, resources) == pb.RUN_STATUS_FAILED
    assert expected in error_of(folder)
