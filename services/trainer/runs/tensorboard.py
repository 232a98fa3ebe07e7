"""A run's figures as TensorBoard reads them: one folder a run, one event file a time it is at work.

What is in them is in the run's history too; they are a copy for those who know TensorBoard.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tutelage.v1 import training_pb2 as pb

FLUSH_S = 5
log = structlog.get_logger()


class TensorBoardLog:
    """Takes a run's events, and writes of them what has environment steps for an x axis.

    Episodes come by the thousand, so that a point is the mean of those since the point before.

    Args:
        folder: of this run alone. Made with the first event that is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: EventFileWriter | None = None
        self._episodes: list[pb.EpisodeEnded] = []

    def take(self, event: pb.RunEvent) -> None:
        """Write an event, if it is of those that are shown. A run does not fail for its sake."""
        try:
            self._take(event)
        except OSError as error:
            log.warning(
                "no more event files are written", folder=str(self._folder), error=str(error)
            )
            self._writer = None

    def close(self) -> None:
        """Return when all is in the file."""
        with suppress(OSError):
            if self._writer is not None:
                self._writer.close()

    def _take(self, event: pb.RunEvent) -> None:
        match event.WhichOneof("event"):
            case "training_begun":
                self._begin(event)
            case "episode_ended":
                self._episodes.append(event.episode_ended)
            case "progress" if event.progress.unit == "env steps":
                self._write(event, event.progress.done, self._rollout(event.progress))
            case "metrics":
                values = {f"learner/{k}": v for k, v in event.metrics.values.items()}
                self._write(event, event.metrics.env_steps, values)
            case "policy_evaluated":
                judged = event.policy_evaluated
                self._write(event, judged.env_steps, _evaluation(judged))
            case "checkpoint_saved" if self._writer is not None:
                self._writer.flush()

    def _begin(self, event: pb.RunEvent) -> None:
        """Open a file. Where others are, have the steps that are taken again struck from them."""
        again = self._folder.is_dir()
        self._writer = EventFileWriter(str(self._folder), flush_secs=FLUSH_S)
        if again:
            first = event.training_begun.env_steps + 1
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=_seconds(event), step=first, session_log=start))

    def _rollout(self, progress: pb.RunProgress) -> dict[str, float]:
        values = {"run/env_steps_per_second": progress.rate}
        if progress.HasField("mean_return"):
            values["rollout/return_mean_100"] = progress.mean_return
        if self._episodes:
            count = len(self._episodes)
            values["rollout/return"] = sum(e.episode_return for e in self._episodes) / count
            values["rollout/length"] = sum(e.length for e in self._episodes) / count
            self._episodes.clear()
        return values

    def _write(self, event: pb.RunEvent, env_steps: int, values: Mapping[str, float]) -> None:
        if self._writer is None:  # of a run that does not train
            return
        shown = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        summary = Summary(value=shown)
        self._writer.add_event(Event(wall_time=_seconds(event), step=env_steps, summary=summary))


def _evaluation(judged: pb.PolicyEvaluated) -> dict[str, float]:
    return {
        "evaluation/mean_return": judged.mean_return,
        "evaluation/min_return": judged.min_return,
        "evaluation/max_return": judged.max_return,
    }


def _seconds(event: pb.RunEvent) -> float:
    return event.time.ToNanoseconds() / 1e9
