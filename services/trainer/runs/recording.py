"""A run that records segments of published policies and hands them to the feedback service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from services.trainer.config import SegmentsRun
from services.trainer.published import PublishedPolicy
from services.trainer.resources import Resources
from services.trainer.runs.session import RunSession
from services.trainer.segments import SegmentRecorder, Source
from tutelage import FeedbackClient
from tutelage.v1 import feedback_pb2 as pb

UPLOADED_AT_ONCE = 8


def record(
    config: SegmentsRun,
    run_id: str,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> bool:
    """Record until there are as many segments as asked for; False when stopped before.

    Raises:
        PreconditionFailed: when nothing is published under one of the aliases.
        Unavailable: when the feedback service does not answer.
    """
    wanted, done = config.recording.segments, 0
    sources = [_source(resources, config.policy, alias) for alias in config.aliases]
    recorder = SegmentRecorder(config.environment, config.recording, generator)
    try:
        with FeedbackClient(resources.feedback_address) as feedback:
            while done < wanted and not session.should_stop:
                source = sources[int(generator.integers(len(sources)))]
                segments = recorder.episode(source, run_id)
                kept = islice(segments, min(config.recording.per_episode, wanted - done))
                for batch in _batches(kept, UPLOADED_AT_ONCE):
                    feedback.upload_segments(batch)
                    done += len(batch)
                    session.progress("recording", done, wanted, "segments", now=True)
    finally:
        recorder.close()
    return done >= wanted


def _batches(segments: Iterable[pb.Segment], size: int) -> Iterator[list[pb.Segment]]:
    iterator = iter(segments)
    while batch := list(islice(iterator, size)):
        yield batch


def _source(resources: Resources, policy: str, alias: str) -> Source:
    published = PublishedPolicy(resources.registry, policy, alias)

    def act(observation: npt.NDArray[np.generic]) -> int:
        return int(published.greedy(observation[None])[0])

    return Source(act, policy, published.manifest.version)
