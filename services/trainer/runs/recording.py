"""Records segments of policies and hands them to the feedback service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from services.trainer.config import EnvironmentConfig, RecordingConfig, SegmentsRun
from services.trainer.published import PublishedPolicy
from services.trainer.resources import Resources
from services.trainer.runs.session import RunSession
from services.trainer.segments import Source, choose_windows, draw, open_environment, play
from tutelage import FeedbackClient
from tutelage.v1 import feedback_pb2 as pb

UPLOADED_AT_ONCE = 8
PLAYING, DRAWING = "playing", "drawing clips"


def record(
    config: SegmentsRun,
    run_id: str,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> bool:
    """Record segments of published policies; False when stopped before the end.

    Raises:
        PreconditionFailed: when nothing is published under one of the aliases.
        Unavailable: when the feedback service does not answer.
    """
    sources = [_published(resources, config.policy, alias) for alias in config.aliases]
    recorder = Recorder(config.policy, run_id, config.environment, session, resources)
    return recorder.record(sources, config.recording, generator)


def _published(resources: Resources, policy: str, alias: str) -> Source:
    published = PublishedPolicy(resources.registry, policy, alias)
    return Source(published.greedy, published.manifest.version)


class Recorder:
    """Plays, chooses, draws and uploads, and says how far it is."""

    def __init__(
        self,
        policy: str,
        run_id: str,
        environment: EnvironmentConfig,
        session: RunSession,
        resources: Resources,
    ) -> None:
        self._policy, self._run_id, self._environment = policy, run_id, environment
        self._session, self._resources = session, resources

    def record(
        self,
        sources: Sequence[Source],
        recording: RecordingConfig,
        generator: np.random.Generator,
    ) -> bool:
        """Record `recording.segments` segments, each episode by one of the sources in turn.

        Raises:
            Unavailable: when the feedback service does not answer.
            InvalidConfig: when the environment cannot be shown.
        """
        env = open_environment(self._environment)
        try:
            episodes = []
            for number in range(recording.episodes):
                if self._session.should_stop:
                    return False
                source = sources[number % len(sources)]
                episodes.append(play(env, source, recording, generator))
                self._session.progress(PLAYING, number + 1, recording.episodes, "episodes")
            windows = choose_windows(episodes, recording.length, recording.segments, generator)
            segments = draw(env, episodes, windows, recording.length, self._policy, self._run_id)
            return self._upload(segments, len(windows))
        finally:
            env.close()

    def _upload(self, segments: Iterator[pb.Segment], total: int) -> bool:
        done = 0
        with FeedbackClient(self._resources.feedback_address) as feedback:
            for batch in _batches(segments, UPLOADED_AT_ONCE):
                feedback.upload_segments(batch)
                done += len(batch)
                self._session.progress(DRAWING, done, total, "segments", now=True)
                if self._session.should_stop:
                    return False
        self._session.say(f"{done} segments are ready to be compared")
        return True


def _batches(segments: Iterable[pb.Segment], size: int) -> Iterator[list[pb.Segment]]:
    iterator = iter(segments)
    while batch := list(islice(iterator, size)):
        yield batch
