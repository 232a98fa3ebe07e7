"""TrainingService on the wire: converts, and asks the manager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc

from services.common.wire import timestamp
from services.trainer.config import load_preset, preset_description, preset_names, to_yaml
from services.trainer.kept import CheckpointFolder, Kept, best
from services.trainer.runs.history import HistoryReader
from services.trainer.runs.manager import RunManager
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
        return pb.ListRunsResponse(runs=self._manager.newest_first(request.policy))

    async def ListPresets(
        self, request: pb.ListPresetsRequest, context: Context
    ) -> pb.ListPresetsResponse:
        """Presets by name."""
        return pb.ListPresetsResponse(presets=[_preset(name) for name in preset_names()])

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        """A run's events, and those to come if asked to follow."""
        reader = HistoryReader(self._manager.store.get(request.run_id).history)
        while True:
            # Asked before reading, so that the events of an end are not missed.
            ended = self._manager.get(request.run_id).status in ENDED
            events = await asyncio.to_thread(lambda: list(reader.read()))
            fresh = [event for event in events if event.sequence > request.after_sequence]
            for start in range(0, len(fresh), EVENTS_A_REPLY):
                yield pb.WatchRunResponse(events=fresh[start : start + EVENTS_A_REPLY])
            if ended or not request.follow:
                return
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


def _preset(name: str) -> pb.Preset:
    config = load_preset(name)
    return pb.Preset(
        name=name,
        description=preset_description(name),
        algorithm=config.algorithm,
        policy=config.policy,
        config_yaml=to_yaml(config),
    )
