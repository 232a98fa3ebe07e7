"""Records segments of policies and hands them to the feedback service."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from services.trainer.config import EnvironmentConfig, RecordingConfig, SegmentsRun
from services.trainer.evaluate import StepReward
from services.trainer.published import PublishedPolicy
from services.trainer.resources import Resources
from services.trainer.runs.session import RunSession
from services.trainer.segments import (
    Env,
    Played,
    Source,
    choose_windows,
    draw,
    open_environment,
    play,
)
from tutelage import FeedbackClient
from tutelage.v1 import feedback_pb2 as pb

UPLOADED_AT_ONCE = 8
PLAYED_AT_ONCE = 16
PLAYING, DRAWING = "playing", "drawing clips"


def record(
    config: SegmentsRun,
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
    recorder = Recorder(config.policy, config.environment, session, resources)
    return recorder.record(sources, config.recording, generator)


def _published(resources: Resources, policy: str, alias: str) -> Source:
    published = PublishedPolicy(resources.registry, policy, alias)
    manifest = published.manifest
    return Source(published.greedy, manifest.version, manifest.spec.masked)


class Recorder:
    """Plays, chooses, draws and uploads, and says how far it is."""

    def __init__(
        self,
        policy: str,
        environment: EnvironmentConfig,
        session: RunSession,
        resources: Resources,
    ) -> None:
        self._policy, self._environment = policy, environment
        self._session, self._resources = session, resources

    def record(
        self,
        sources: Sequence[Source],
        recording: RecordingConfig,
        generator: np.random.Generator,
        reward: StepReward | None = None,
    ) -> bool:
        """Record `recording.segments` segments, of as many episodes by each of the sources.

        Args:
            reward: as learned so far; see `choose_windows`.

        Raises:
            Unavailable: when the feedback service does not answer.
            InvalidConfig: when the environment cannot be shown.
        """
        shared_out = lots(sources, recording.episodes)
        envs = [open_environment(self._environment) for _ in range(max(n for _, n in shared_out))]
        try:
            episodes = self._play(envs, shared_out, recording, generator)
            if self._session.should_stop:
                return False
            windows = choose_windows(
                episodes, recording.length, recording.segments, generator, reward
            )
            segments = draw(envs[0], episodes, windows, recording.length, self._policy)
            return self._upload(segments, len(windows))
        finally:
            for env in envs:
                env.close()

    def _play(
        self,
        envs: Sequence[Env],
        shared_out: Sequence[tuple[Source, int]],
        recording: RecordingConfig,
        generator: np.random.Generator,
    ) -> list[Played]:
        """What is seen in the first lot, without misreading, says how far off others may be."""
        episodes: list[Played] = []
        total = sum(count for _, count in shared_out)
        spread: npt.NDArray[np.float64] | float = 0.0
        for source, count in shared_out:
            if self._session.should_stop:
                break
            first = not episodes
            episodes += play(envs[:count], source, recording, spread, generator)
            if first:
                spread = np.concatenate([e.observations for e in episodes]).std(axis=0, dtype=float)
            self._session.progress(PLAYING, len(episodes), total, "episodes")
        return episodes

    def _upload(self, segments: Iterator[pb.Segment], total: int) -> bool:
        done = new = 0
        with FeedbackClient(self._resources.feedback_address) as feedback:
            for batch in _batches(segments, UPLOADED_AT_ONCE):
                new += feedback.upload_segments(batch).created
                done += len(batch)
                self._session.progress(DRAWING, done, total, "segments", now=True)
                if self._session.should_stop:
                    return False
        known = "" if new == done else f"; {done - new} of them were there already"
        self._session.say(f"{done} segments are ready to be compared{known}")
        return True


def lots(sources: Sequence[Source], episodes: int) -> list[tuple[Source, int]]:
    """Sources in turn, each with how many episodes it plays side by side."""
    of_each = math.ceil(episodes / len(sources))
    rounds = math.ceil(of_each / PLAYED_AT_ONCE)
    return [
        (source, len(part))
        for part in np.array_split(np.arange(of_each), rounds)
        for source in sources
    ]


def _batches(segments: Iterable[pb.Segment], size: int) -> Iterator[list[pb.Segment]]:
    iterator = iter(segments)
    while batch := list(islice(iterator, size)):
        yield batch
