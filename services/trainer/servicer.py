"""TrainingService on the wire: converts, and asks the manager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.errors import InvalidInput
from services.common.wire import timestamp
from services.trainer.config import (
    load_preset,
    preset_description,
    preset_names,
    to_yaml,
    total_env_steps,
)
from services.trainer.kept import CheckpointFolder, Kept, best
from services.trainer.runs.history import HistoryReader
from services.trainer.runs.manager import MOST_LISTED, RunManager
from services.trainer.runs.store import ENDED
from tutelage.v1 import training_pb2 as pb
from tutelage.v1 import training_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
FOLLOW_PERIOD_S = 0.25
EVENTS_A_REPLY = 500


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """Answers TrainingService."""

    def __init__(self, manager: RunManager) -> None:
        self._manager = manager

    async def StartRun(self, request: pb.StartRunRequest, context: Context) -> pb.StartRunResponse:
        """Queue a run."""
        seed = request.seed if request.HasField("seed") else None
        run = self._manager.start(request.preset, dict(request.overrides), seed, request.request_id)
        return pb.StartRunResponse(run=run)

    async def StopRun(self, request: pb.StopRunRequest, context: Context) -> pb.StopRunResponse:
        """Stop a run once it has saved a checkpoint."""
        return pb.StopRunResponse(run=await self._manager.stop(request.run_id))

    async def ResumeRun(
        self, request: pb.ResumeRunRequest, context: Context
    ) -> pb.ResumeRunResponse:
        """Queue a run again."""
        return pb.ResumeRunResponse(run=self._manager.resume(request.run_id))

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """The state of a run, and what is kept of it."""
        found = self._manager.get(request.run_id)
        folder = CheckpointFolder(self._manager.store.get(request.run_id).checkpoints)
        run = pb.Run(checkpoints=_checkpoints(await asyncio.to_thread(folder.kept)))
        run.MergeFrom(found)
        return pb.GetRunResponse(run=run)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Runs, newest first."""
        if request.limit < 0:
            raise InvalidInput(f"limit {request.limit}: expected a number of runs")
        limit = min(request.limit or MOST_LISTED, MOST_LISTED)
        return pb.ListRunsResponse(runs=self._manager.newest_first(request.policy, limit))

    async def ListPresets(
        self, request: pb.ListPresetsRequest, context: Context
    ) -> pb.ListPresetsResponse:
        """Presets by name."""
        return pb.ListPresetsResponse(presets=[_preset(name) for name in preset_names()])

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        """A run's events, and those to come and its place in the queue if asked to follow."""
        history = self._manager.store.get(request.run_id).history
        reader = HistoryReader(history, request.after_sequence)
        place, sequence = 0, request.after_sequence
        while True:
            # Asked before reading, so that the events of an end are not missed.
            run = self._manager.get(request.run_id)
            ended, place_now = run.status in ENDED, run.queue_place
            fresh = reader.read()
            while events := await asyncio.to_thread(_some, fresh):
                sequence = events[-1].sequence
                yield pb.WatchRunResponse(events=events)
            if ended or not request.follow:
                return
            if place_now != place:
                place = place_now
                yield pb.WatchRunResponse(events=[_queue_moved(place, sequence)])
            await asyncio.sleep(FOLLOW_PERIOD_S)


def _checkpoints(kept: Sequence[Kept]) -> list[pb.Checkpoint]:
    first = best(kept)
    return [
        pb.Checkpoint(
            env_steps=one.env_steps,
            saved_at=timestamp(datetime.fromtimestamp(one.saved_at, UTC)),
            bytes=one.bytes,
            score=one.score,
            best=one is first,
        )
        for one in kept
    ]


def _some(events: Iterator[pb.RunEvent]) -> list[pb.RunEvent]:
    return list(islice(events, EVENTS_A_REPLY))


def _queue_moved(place: int, sequence: int) -> pb.RunEvent:
    now = Timestamp()
    now.GetCurrentTime()
    moved = pb.QueueMoved(queue_place=place)
    return pb.RunEvent(sequence=sequence, time=now, queue_moved=moved)


def _preset(name: str) -> pb.Preset:
    config = load_preset(name)
    return pb.Preset(
        name=name,
        description=preset_description(name),
        algorithm=config.algorithm,
        policy=config.policy,
        environment=config.environment.id,
        env_steps=total_env_steps(config),
        config_yaml=to_yaml(config),
    )
