"""The training and feedback clients over real gRPC, against services that note what arrives."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tutelage import FeedbackClient, TrainingClient
from tutelage.errors import NotFound, Unavailable
from tutelage.v1 import feedback_pb2 as fb
from tutelage.v1 import feedback_pb2_grpc, training_pb2_grpc
from tutelage.v1 import training_pb2 as tr


class Trainer(training_pb2_grpc.TrainingServiceServicer):
    def __init__(self) -> None:
        self.started: list[tr.StartRunRequest] = []
        self.resumes = 0

    def StartRun(self, request: tr.StartRunRequest, context: grpc.ServicerContext):
        self.started.append(request)
        if len(self.started) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return tr.StartRunResponse(run=tr.Run(run_id="run-1", preset=request.preset))

    def StopRun(self, request: tr.StopRunRequest, context: grpc.ServicerContext):
        return tr.StopRunResponse(run=tr.Run(run_id=request.run_id))

    def ResumeRun(self, request: tr.ResumeRunRequest, context: grpc.ServicerContext):
        self.resumes += 1
        context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    def GetRun(self, request: tr.GetRunRequest, context: grpc.ServicerContext):
        context.abort(grpc.StatusCode.NOT_FOUND, f"no run {request.run_id!r}")

    def ListRuns(self, request: tr.ListRunsRequest, context: grpc.ServicerContext):
        return tr.ListRunsResponse(runs=[tr.Run(run_id="run-1", policy=request.policy)])

    def ListPresets(self, request: tr.ListPresetsRequest, context: grpc.ServicerContext):
        return tr.ListPresetsResponse(presets=[tr.Preset(name="cartpole-dqn")])

    def WatchRun(self, request: tr.WatchRunRequest, context: grpc.ServicerContext):
        first = request.after_sequence + 1
        yield tr.WatchRunResponse(events=[tr.RunEvent(sequence=first + i) for i in range(2)])
        yield tr.WatchRunResponse(events=[tr.RunEvent(sequence=first + 2)])
        if request.follow:
            context.abort(grpc.StatusCode.UNAVAILABLE, "going away")


class Feedback(feedback_pb2_grpc.FeedbackServiceServicer):
    def __init__(self) -> None:
        self.submitted: list[fb.SubmitPreferenceRequest] = []

    def NextPair(self, request: fb.NextPairRequest, context: grpc.ServicerContext):
        return fb.NextPairResponse(pair=fb.Pair(pair_id="p1", policy=request.policy))

    def SubmitPreference(self, request: fb.SubmitPreferenceRequest, context: grpc.ServicerContext):
        self.submitted.append(request)
        if len(self.submitted) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return fb.SubmitPreferenceResponse(preference=fb.Preference(choice=request.choice))

    def UndoPreference(self, request: fb.UndoPreferenceRequest, context: grpc.ServicerContext):
        return fb.UndoPreferenceResponse(preference=fb.Preference(labeler=request.labeler))

    def ListPreferences(self, request: fb.ListPreferencesRequest, context: grpc.ServicerContext):
        start, total = int(request.page_token or 0), 5
        stop = min(start + request.page_size, total)
        return fb.ListPreferencesResponse(
            preferences=[fb.Preference(preference_id=str(i)) for i in range(start, stop)],
            segments=[fb.Segment(segment_id="s")] if request.include_segments else [],
            next_page_token=str(stop) if stop < total else "",
        )

    def UploadSegments(self, request: fb.UploadSegmentsRequest, context: grpc.ServicerContext):
        ids = [f"s{i}" for i in range(len(request.segments))]
        return fb.UploadSegmentsResponse(segment_ids=ids, created=len(ids))

    def GetClip(self, request: fb.GetClipRequest, context: grpc.ServicerContext):
        return fb.GetClipResponse(clip=b"mp4")

    def GetProgress(self, request: fb.GetProgressRequest, context: grpc.ServicerContext):
        return fb.GetProgressResponse(policy=request.policy, goal=200)


@pytest.fixture
def trainer() -> Trainer:
    return Trainer()


@pytest.fixture
def feedback() -> Feedback:
    return Feedback()


@pytest.fixture
def address(trainer: Trainer, feedback: Feedback) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    training_pb2_grpc.add_TrainingServiceServicer_to_server(trainer, server)
    feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(feedback, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_runs(trainer: Trainer, address: str) -> None:
    with TrainingClient(address) as client:
        run = client.start_run("cartpole-dqn", {"dqn.learning_rate": "0.1"}, seed=3)
        assert run.run_id == "run-1"
        first, retried = trainer.started  # tried again, by the same token
        assert first == retried
        assert len(first.request_id) == 32
        assert (first.seed, dict(first.overrides)) == (3, {"dqn.learning_rate": "0.1"})
        client.start_run("cartpole-dqn")
        assert trainer.started[-1].request_id != first.request_id
        assert client.stop_run("run-2").run_id == "run-2"
        assert [run.policy for run in client.list_runs("cartpole")] == ["cartpole"]
        assert [preset.name for preset in client.presets()] == ["cartpole-dqn"]
        with pytest.raises(NotFound, match="no run 'run-9'"):
            client.get_run("run-9")


def test_what_must_not_happen_twice_is_not_tried_again(trainer: Trainer, address: str) -> None:
    with TrainingClient(address) as client, pytest.raises(Unavailable, match="restarting"):
        client.resume_run("run-1")

    assert trainer.resumes == 1


def test_watching_a_run(address: str) -> None:
    with TrainingClient(address) as client:
        events = client.watch_run("run-1", after_sequence=4, follow=False)
        assert [event.sequence for event in events] == [5, 6, 7]

        events = client.watch_run("run-1")
        assert [next(events).sequence for _ in range(3)] == [1, 2, 3]
        with pytest.raises(Unavailable, match="going away"):
            next(events)


def test_leaving_a_watch_early_cancels_it(address: str) -> None:
    with TrainingClient(address) as client:
        events = client.watch_run("run-1")
        assert next(events).sequence == 1
        events.close()


def test_preferences(feedback: Feedback, address: str) -> None:
    with FeedbackClient(address) as client:
        assert client.next_pair("ana", "cartpole").pair_id == "p1"
        reply = client.submit_preference("p1", "ana", fb.CHOICE_LEFT, response_time_ms=800)
        assert reply.preference.choice == fb.CHOICE_LEFT
        first, retried = feedback.submitted
        assert first == retried
        assert len(first.request_id) == 32
        assert client.undo_preference("ana").labeler == "ana"
        assert client.get_clip("s") == b"mp4"
        assert client.get_progress("cartpole").goal == 200
        assert client.upload_segments(fb.Segment() for _ in range(3)).created == 3


def test_preferences_come_page_by_page(address: str) -> None:
    with FeedbackClient(address) as client:
        assert [p.preference_id for p in client.list_preferences()] == list("01234")
        pages = list(client.preference_pages(page_size=2, include_segments=True))
        assert [len(page.preferences) for page in pages] == [2, 2, 1]
        assert all(page.segments for page in pages)
