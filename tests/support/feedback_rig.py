"""A real feedback service for tests, and small segments to put into it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common import clips
from services.common.ports import free_port
from tutelage.v1 import feedback_pb2 as pb
from tutelage.v1.feedback_pb2_grpc import FeedbackServiceStub

LENGTH = 8
START_TIMEOUT_S = 60


@cache
def small_clip(frames: int = LENGTH) -> bytes:
    film = np.full((frames, 48, 64, 3), 255, dtype=np.uint8)
    for t in range(frames):
        film[t, 10:30, t : t + 10] = (200, 30, 30)
    return clips.encode(film, 25)


def make_segment(policy: str, episode: int, *, version: int = 1, start: int = 0) -> pb.Segment:
    """A small valid segment, different for each argument."""
    generator = np.random.default_rng([episode, version, start])
    return pb.Segment(
        policy=policy,
        policy_version=version,
        episode_id=f"episode-{episode}",
        start_step=start,
        length=LENGTH,
        observation_shape=[4],
        observations=generator.normal(size=(LENGTH, 4)).astype("<f4").tobytes(),
        actions=generator.integers(0, 2, LENGTH).astype("<i8").tobytes(),
        rewards=np.ones(LENGTH, "<f4").tobytes(),
        clip=small_clip(),
        frames_per_s=25,
    )


@dataclass
class FeedbackProcess:
    """`python -m services.feedback` as a real process, and a stub that calls it."""

    process: subprocess.Popen[str]
    address: str
    channel: grpc.Channel
    stub: FeedbackServiceStub

    def wait_until_serving(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        health = health_pb2_grpc.HealthStub(self.channel)
        while True:
            assert self.process.poll() is None, "the service has ended"
            try:
                request = health_pb2.HealthCheckRequest(service="tutelage.v1.FeedbackService")
                if (
                    health.Check(request, timeout=5).status
                    == health_pb2.HealthCheckResponse.SERVING
                ):
                    return
            except grpc.RpcError:
                assert time.monotonic() < deadline, "the service does not answer"
            time.sleep(0.05)

    def upload(self, policy: str, episodes: int, **kwargs: int) -> list[str]:
        segments = [make_segment(policy, episode, **kwargs) for episode in range(episodes)]
        return list(
            self.stub.UploadSegments(pb.UploadSegmentsRequest(segments=segments)).segment_ids
        )

    def next_pair(self, policy: str, labeler: str = "ann") -> pb.Pair:
        return self.stub.NextPair(pb.NextPairRequest(policy=policy, labeler=labeler)).pair

    def submit(
        self,
        pair: pb.Pair,
        choice: int = pb.CHOICE_LEFT,
        labeler: str = "ann",
        request_id: str = "",
    ) -> pb.SubmitPreferenceResponse:
        return self.stub.SubmitPreference(
            pb.SubmitPreferenceRequest(
                pair_id=pair.pair_id,
                labeler=labeler,
                choice=choice,
                request_id=request_id,
                response_time_ms=1234,
            )
        )

    def progress(self, policy: str, labeler: str = "ann") -> pb.GetProgressResponse:
        return self.stub.GetProgress(pb.GetProgressRequest(policy=policy, labeler=labeler))

    def preferences(self, policy: str, **kwargs: object) -> pb.ListPreferencesResponse:
        return self.stub.ListPreferences(pb.ListPreferencesRequest(policy=policy, **kwargs))

    def stop(self) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


def feedback_environment(folder: Path, port: int, **settings: str) -> dict[str, str]:
    return {
        **os.environ,
        "TUTELAGE_DATA_DIR": str(folder),
        "TUTELAGE_FEEDBACK_ADDRESS": f"127.0.0.1:{port}",
        **settings,
    }


def start_feedback(folder: Path, *, port: int = 0, **settings: str) -> FeedbackProcess:
    port = port or free_port()
    with (folder / "feedback.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.feedback"],
            env=feedback_environment(folder, port, **settings),
            stderr=log,
            text=True,
        )
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    started = FeedbackProcess(process, f"127.0.0.1:{port}", channel, FeedbackServiceStub(channel))
    started.wait_until_serving()
    return started
