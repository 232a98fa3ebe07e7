"""FeedbackService over real gRPC, against the real process and a real SQLite file."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import av
import grpc
import numpy as np
import pytest
from feedback_rig import LENGTH, FeedbackProcess, feedback_environment, make_segment, small_clip

from services.common.ports import free_port
from tutelage.v1 import feedback_pb2 as pb


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code(), raised.value.details()


def upload_refused(service: FeedbackProcess, *segments: pb.Segment) -> str:
    request = pb.UploadSegmentsRequest(segments=segments)
    code, message = refused(lambda: service.stub.UploadSegments(request))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    return message


# --- segments ---


def test_an_upload_repeated_adds_nothing(shared_feedback: FeedbackProcess, policy: str) -> None:
    request = pb.UploadSegmentsRequest(segments=[make_segment(policy, 1), make_segment(policy, 2)])
    first = shared_feedback.stub.UploadSegments(request)
    again = shared_feedback.stub.UploadSegments(request)
    assert (first.created, again.created) == (2, 0)
    assert list(first.segment_ids) == list(again.segment_ids)
    assert shared_feedback.progress(policy).segments == 2


def test_the_same_segment_twice_in_one_upload(
    shared_feedback: FeedbackProcess, policy: str
) -> None:
    request = pb.UploadSegmentsRequest(segments=[make_segment(policy, 1)] * 2)
    assert shared_feedback.stub.UploadSegments(request).created == 1


def test_a_clip_comes_back_as_it_was(shared_feedback: FeedbackProcess, policy: str) -> None:
    (segment_id,) = shared_feedback.upload(policy, 1)
    reply = shared_feedback.stub.GetClip(pb.GetClipRequest(segment_id=segment_id))
    assert reply.clip == small_clip()


def test_an_unknown_clip_is_not_found(shared_feedback: FeedbackProcess) -> None:
    request = pb.GetClipRequest(segment_id="0" * 32)
    code, message = refused(lambda: shared_feedback.stub.GetClip(request))
    assert code == grpc.StatusCode.NOT_FOUND
    assert "0" * 32 in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"policy": "Cart Pole"}, "policy name"),
        ({"episode_id": ""}, "episode_id"),
        ({"length": 0}, "length is 0, expected 1 to"),
        ({"length": 9}, "observations has 128 bytes, expected 144"),
        ({"start_step": -1}, "start_step is -1"),
        ({"policy_version": -1}, "policy_version is -1"),
        ({"observation_shape": [3]}, "observations has 128 bytes, expected 96"),
        ({"observation_shape": [-4]}, "expected positive lengths"),
        ({"actions": b"12345678"}, "actions has 8 bytes, expected 64"),
        ({"actions": np.full(LENGTH, -1, "<i8").tobytes()}, "expected indices from 0"),
        ({"rewards": b""}, "rewards has 0 bytes, expected 32"),
        ({"observations": np.full((LENGTH, 4), np.nan, "<f4").tobytes()}, "NaN or infinity"),
        ({"observations": np.full((LENGTH, 4), np.inf, "<f4").tobytes()}, "NaN or infinity"),
        ({"rewards": np.full(LENGTH, np.nan, "<f4").tobytes()}, "NaN or infinity"),
        ({"frames_per_s": 0.0}, "frames_per_s"),
        ({"frames_per_s": math.nan}, "frames_per_s"),
        ({"clip": b""}, "the clip has 0 bytes"),
        ({"clip": b"no video at all"}, "H.264 MP4"),
        ({"clip": small_clip()[:-30]}, "H.264 MP4"),
        ({"clip": small_clip(LENGTH - 1)}, "the clip has 7 frames, expected one for each of 8"),
        ({"clip": b"0" * ((3 << 20) + 1)}, "expected 1 to 3145728"),
    ],
)
def test_a_segment_that_does_not_fit_is_refused(
    shared_feedback: FeedbackProcess, change: dict[str, object], complaint: str
) -> None:
    segment = make_segment("misfit", 1)
    for name in change:
        segment.ClearField(name)
    segment.MergeFrom(pb.Segment(**change))
    assert complaint in upload_refused(shared_feedback, make_segment("misfit", 2), segment)
    assert shared_feedback.progress("misfit").segments == 0


def test_a_clip_of_another_codec_is_refused(shared_feedback: FeedbackProcess) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(LENGTH):
            image = np.zeros((48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    segment = make_segment("misfit", 1)
    segment.clip = file.getvalue()
    assert "mpeg4 video, expected h264" in upload_refused(shared_feedback, segment)


def test_observations_of_another_shape_are_refused(
    shared_feedback: FeedbackProcess, policy: str
) -> None:
    shared_feedback.upload(policy, 1)
    other = make_segment(policy, 2)
    del other.observation_shape[:]
    other.observation_shape.extend([2, 2])
    message = upload_refused(shared_feedback, other)
    assert "observation_shape is [2, 2], expected [4]" in message
    other.policy = f"{policy}-2"
    assert "expected [4]" in upload_refused(shared_feedback, make_segment(other.policy, 1), other)


def test_an_upload_of_nothing_or_too_much_is_refused(shared_feedback: FeedbackProcess) -> None:
    assert "expected 1 to 256" in upload_refused(shared_feedback)
    segment = make_segment("misfit", 1)
    segment.clip = b""
    assert "expected 1 to 256" in upload_refused(shared_feedback, *[segment] * 257)


def test_an_oversized_message_is_refused(shared_feedback: FeedbackProcess) -> None:
    request = pb.UploadSegmentsRequest(segments=[pb.Segment(clip=b"0" * (33 << 20))])
    code, message = refused(lambda: shared_feedback.stub.UploadSegments(request))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in message


# --- pairs ---


def test_no_pair_without_two_segments(shared_feedback: FeedbackProcess, policy: str) -> None:
    code, message = refused(lambda: shared_feedback.next_pair(policy))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "has 0 segments" in message
    shared_feedback.upload(policy, 1)
    assert refused(lambda: shared_feedback.next_pair(policy))[0] == code


def test_a_pair_shows_segments_without_clips_and_rewards(
    shared_feedback: FeedbackProcess, policy: str
) -> None:
    shared_feedback.upload(policy, 20)
    pair = shared_feedback.next_pair(policy)
    original = next(
        segment
        for segment in (make_segment(policy, episode) for episode in range(20))
        if segment.episode_id == pair.left.episode_id
    )
    assert pair.left.observations == original.observations
    assert pair.left.actions == original.actions
    assert (pair.left.clip, pair.left.rewards) == (b"", b"")
    assert pair.left.episode_id != pair.right.episode_id


def test_a_reload_shows_the_same_pair_and_a_judgement_the_next(
    shared_feedback: FeedbackProcess, policy: str
) -> None:
    shared_feedback.upload(policy, 20)
    pair = shared_feedback.next_pair(policy)
    assert shared_feedback.next_pair(policy) == pair
    assert shared_feedback.progress(policy).open_pairs == 1
    shared_feedback.submit(pair, pb.CHOICE_SKIP)
    assert shared_feedback.next_pair(policy).pair_id != pair.pair_id


def test_pairs_end_when_each_was_shown_once(shared_feedback: FeedbackProcess, policy: str) -> None:
    ids = shared_feedback.upload(policy, 6)
    shown = set()
    while True:
        try:
            pair = shared_feedback.next_pair(policy)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION  # noqa: PT017
            assert "has been shown every pair" in error.details()  # noqa: PT017
            break
        unordered = frozenset((pair.left.segment_id, pair.right.segment_id))
        assert unordered not in shown
        assert pair.left.split == pair.right.split == pair.split
        shown.add(unordered)
        shared_feedback.submit(pair)
    held_out = shared_feedback.progress(policy).held_out
    train = len(shown) - held_out
    assert {n * (n - 1) // 2 for n in range(len(ids) + 1)} >= {held_out, train}
    assert shared_feedback.next_pair(policy, "bob").pair_id


@pytest.mark.parametrize("labeler", ["", "x" * 65, " ", "a\nb"])
def test_a_labeler_without_a_proper_name_is_refused(
    shared_feedback: FeedbackProcess, labeler: str
) -> None:
    code, message = refused(lambda: shared_feedback.next_pair("cartpole", labeler))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "1 to 64 printable characters" in message


# --- preferences ---


def test_a_judgement_counts_once_however_often_it_is_sent(
    shared_feedback: FeedbackProcess, policy: str
) -> None:
    shared_feedback.upload(policy, 20)
    pair = shared_feedback.next_pair(policy)
    first = shared_feedback.submit(pair, pb.CHOICE_RIGHT, request_id="token-1")
    for request_id in ("token-1", "token-2", ""):
        again = shared_feedback.submit(pair, pb.CHOICE_RIGHT, request_id=request_id)
        assert again.duplicate
        assert again.preference == first.preference
    assert not first.duplicate
    assert first.preference.response_time_ms == 1234
    assert shared_feedback.progress(policy).right == 1
    assert len(shared_feedback.preferences(policy).preferences) == 1


def test_another_choice_needs_an_undo_first(shared_feedback: FeedbackProcess, policy: str) -> None:
    shared_feedback.upload(policy, 20)
    pair = shared_feedback.next_pair(policy)
    shared_feedback.submit(pair, pb.CHOICE_LEFT)
    code, message = refused(lambda: shared_feedback.submit(pair, pb.CHOICE_RIGHT))
    assert code == grpc.StatusCode.ALREADY_EXISTS
    assert "'left'" in message
    shared_feedback.stub.UndoPreference(pb.UndoPreferenceRequest(policy=policy, labeler="ann"))
    assert not shared_feedback.submit(pair, pb.CHOICE_RIGHT).duplicate
    assert shared_feedback.progress(policy).right == 1


def test_a_token_is_good_for_one_pair(shared_feedback: FeedbackProcess, policy: str) -> None:
    shared_feedback.upload(policy, 20)
    shared_feedback.submit(shared_feedback.next_pair(policy), request_id="used")
    other = shared_feedback.next_pair(policy)
    code, message = refused(lambda: shared_feedback.submit(other, request_id="used"))
    assert code == grpc.StatusCode.ALREADY_EXISTS
    assert "another pair" in message


def test_a_judgement_of_no_pair_is_refused(shared_feedback: FeedbackProcess, policy: str) -> None:
    code, message = refused(lambda: shared_feedback.submit(pb.Pair(pair_id="nothing")))
    assert code == grpc.StatusCode.NOT_FOUND
    assert "'nothing'" in message
    shared_feedback.upload(policy, 20)
    somebody_elses = shared_feedback.next_pair(policy, "bob")
    assert refused(lambda: shared_feedback.submit(somebody_elses))[0] == code


@pytest.mark.parametrize(
    "change",
    [
        {"choice": pb.CHOICE_UNSPECIFIED},
        {"choice": 17},
        {"labeler": ""},
        {"response_time_ms": -1},
        {"response_time_ms": 1 << 40},
        {"request_id": "x" * 129},
    ],
)
def test_a_judgement_that_does_not_fit_is_refused(
    shared_feedback: FeedbackProcess, change: dict[str, object]
) -> None:
    values = {"pair_id": "any", "labeler": "ann", "choice": pb.CHOICE_LEFT, **change}
    request = pb.SubmitPreferenceRequest(**values)
    code, message = refused(lambda: shared_feedback.stub.SubmitPreference(request))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "expected" in message or "must be" in message


def test_undo_opens_the_pair_again_and_is_harmless_when_repeated(
    shared_feedback: FeedbackProcess, policy: str
) -> None:
    shared_feedback.upload(policy, 20)
    first = shared_feedback.next_pair(policy)
    kept = shared_feedback.submit(first).preference
    second = shared_feedback.next_pair(policy)
    taken_back = shared_feedback.submit(second, pb.CHOICE_TIE).preference
    request = pb.UndoPreferenceRequest(policy=policy, labeler="ann", request_id="undo-1")
    for _ in range(2):
        reply = shared_feedback.stub.UndoPreference(request)
        assert reply.preference == taken_back
    assert [p.preference_id for p in shared_feedback.preferences(policy).preferences] == [
        kept.preference_id
    ]
    assert shared_feedback.next_pair(policy) == second
    progress = shared_feedback.progress(policy)
    assert (progress.left, progress.ties, progress.open_pairs) == (1, 0, 1)


def test_undo_of_the_one_named(shared_feedback: FeedbackProcess, policy: str) -> None:
    shared_feedback.upload(policy, 20)
    first = shared_feedback.submit(shared_feedback.next_pair(policy)).preference
    second = shared_feedback.submit(shared_feedback.next_pair(policy)).preference
    request = pb.UndoPreferenceRequest(
        policy=policy, labeler="ann", preference_id=first.preference_id
    )
    for _ in range(2):
        assert shared_feedback.stub.UndoPreference(request).preference == first
    assert list(shared_feedback.preferences(policy).preferences) == [second]
    request.labeler = "bob"
    code, _ = refused(lambda: shared_feedback.stub.UndoPreference(request))
    assert code == grpc.StatusCode.NOT_FOUND


def test_nothing_to_undo(shared_feedback: FeedbackProcess, policy: str) -> None:
    request = pb.UndoPreferenceRequest(policy=policy, labeler="ann")
    code, message = refused(lambda: shared_feedback.stub.UndoPreference(request))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "to take back" in message


def test_pages_hold_every_preference_once_in_order(
    shared_feedback: FeedbackProcess, policy: str
) -> None:
    shared_feedback.upload(policy, 30)
    given = [shared_feedback.submit(shared_feedback.next_pair(policy)).preference for _ in range(7)]
    listed: list[pb.Preference] = []
    sizes, token = [], ""
    while True:
        page = shared_feedback.preferences(policy, page_size=3, page_token=token)
        listed += page.preferences
        sizes.append(len(page.preferences))
        # What is given after the first page must not shift the second.
        if not token:
            newest = shared_feedback.next_pair(policy, "bob")
            given.append(shared_feedback.submit(newest, labeler="bob").preference)
        token = page.next_page_token
        if not token:
            break
    assert listed == given
    assert sizes == [3, 3, 2]
    assert not page.segments
    assert len(shared_feedback.preferences(policy, labeler="bob").preferences) == 1


def test_listed_segments_carry_what_the_fit_needs(
    shared_feedback: FeedbackProcess, policy: str
) -> None:
    shared_feedback.upload(policy, 20)
    preference = shared_feedback.submit(shared_feedback.next_pair(policy)).preference
    page = shared_feedback.preferences(policy, include_segments=True)
    by_id = {segment.segment_id: segment for segment in page.segments}
    assert set(by_id) == {preference.left_segment_id, preference.right_segment_id}
    for segment in by_id.values():
        assert len(segment.observations) == LENGTH * 4 * 4
        assert len(segment.rewards) == LENGTH * 4
        assert segment.clip == b""
        assert segment.split == preference.split


@pytest.mark.parametrize(
    "change", [{"page_size": -1}, {"page_size": 1001}, {"page_token": "x"}, {"page_token": "²"}]
)
def test_a_page_that_cannot_be_is_refused(
    shared_feedback: FeedbackProcess, change: dict[str, object]
) -> None:
    code, _ = refused(lambda: shared_feedback.preferences("cartpole", **change))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_progress_counts_by_choice(shared_feedback: FeedbackProcess, policy: str) -> None:
    shared_feedback.upload(policy, 30)
    choices = [pb.CHOICE_LEFT] * 3 + [pb.CHOICE_RIGHT] * 2 + [pb.CHOICE_TIE, pb.CHOICE_SKIP]
    held_out = 0
    for choice in choices:
        pair = shared_feedback.next_pair(policy)
        held_out += pair.split == pb.SPLIT_HELD_OUT and choice != pb.CHOICE_SKIP
        shared_feedback.submit(pair, choice)
    progress = shared_feedback.progress(policy)
    assert progress == pb.GetProgressResponse(
        policy=policy,
        segments=30,
        left=3,
        right=2,
        ties=1,
        skips=1,
        held_out=held_out,
        by_labeler=7,
        goal=200,
    )
    assert shared_feedback.progress(policy, "bob").by_labeler == 0


def test_progress_of_a_task_that_is_none_yet_is_zero(
    shared_feedback: FeedbackProcess, policy: str
) -> None:
    assert shared_feedback.progress(policy) == pb.GetProgressResponse(policy=policy, goal=200)


# --- the process ---


def test_the_policy_may_be_left_out_where_there_is_one(
    start: Callable[..., FeedbackProcess],
) -> None:
    service = start()
    assert service.progress("") == pb.GetProgressResponse(goal=200)
    service.upload("cartpole", 20)
    assert service.next_pair("").policy == "cartpole"
    assert service.progress("").policy == "cartpole"
    service.upload("acrobot", 1)
    code, message = refused(lambda: service.progress(""))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "acrobot, cartpole" in message


def test_a_label_survives_kill_9_right_after_the_reply(
    start: Callable[..., FeedbackProcess],
) -> None:
    service = start()
    service.upload("cartpole", 20)
    given = service.submit(service.next_pair("cartpole"), request_id="token").preference
    service.process.kill()
    service.process.wait()
    again = start()
    assert list(again.preferences("cartpole").preferences) == [given]
    retry = again.submit(pb.Pair(pair_id=given.pair_id), request_id="token")
    assert retry.duplicate
    assert again.progress("cartpole").left == 1
    clip = again.stub.GetClip(pb.GetClipRequest(segment_id=given.left_segment_id))
    assert clip.clip == small_clip()


def test_settings_take_effect_and_metrics_are_served(start: Callable[..., FeedbackProcess]) -> None:
    metrics = free_port()
    service = start(
        TUTELAGE_HELD_OUT_SHARE="0.5",
        TUTELAGE_LABEL_GOAL="12",
        TUTELAGE_FEEDBACK_METRICS_PORT=str(metrics),
    )
    service.upload("cartpole", 40)
    for _ in range(60):
        service.submit(service.next_pair("cartpole"))
    progress = service.progress("cartpole")
    assert progress.held_out == 30
    assert progress.goal == 12
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as reply:
        assert 'grpc_method="/tutelage.v1.FeedbackService/NextPair"' in reply.read().decode()


def test_sigterm_ends_it_quietly(start: Callable[..., FeedbackProcess], tmp_path: Path) -> None:
    service = start()
    service.process.terminate()
    assert service.process.wait(20) == 0
    assert "Traceback" not in (tmp_path / "feedback.log").read_text()


def test_what_keeps_it_from_starting_is_one_line(
    shared_feedback: FeedbackProcess, tmp_path: Path
) -> None:
    port = int(shared_feedback.address.rpartition(":")[2])
    for settings, complaint in (
        ({}, "the port is taken"),
        ({"TUTELAGE_LABEL_GOAL": "many"}, "TUTELAGE_LABEL_GOAL='many'"),
        ({"TUTELAGE_DATABASE_URL": "nonsense"}, "TUTELAGE_DATABASE_URL"),
        (
            {"TUTELAGE_DATABASE_URL": "sqlite:////proc/nothing/here.db"},
            "cannot make the labels' folder",
        ),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "services.feedback"],
            env=feedback_environment(tmp_path, port, **settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 1
        assert complaint in ended.stderr
        assert "Traceback" not in ended.stderr
