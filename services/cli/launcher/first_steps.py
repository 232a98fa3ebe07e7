"""Sees to it that a fresh platform has something to show: a policy, then segments to judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from services.cli.launcher.follow import CALL_TIMEOUT_S, UNFINISHED, persistently
from services.cli.launcher.view import BAD, NEUTRAL, View
from tutelage.v1 import feedback_pb2, policy_pb2, training_pb2

if TYPE_CHECKING:  # the generated code names these for the type checker only
    from tutelage.v1.feedback_pb2_grpc import FeedbackServiceAsyncStub
    from tutelage.v1.policy_pb2_grpc import PolicyServiceAsyncStub
    from tutelage.v1.training_pb2_grpc import TrainingServiceAsyncStub

POLICY, STABLE = "cartpole", "stable"
FIRST_RUN = "cartpole-dqn"
FIRST_SEGMENTS = "cartpole-segments"


@dataclass(frozen=True)
class Services:
    """The three services to talk to.

    metadata: what `policies` is to be shown with each call.
    """

    policies: PolicyServiceAsyncStub
    training: TrainingServiceAsyncStub
    feedback: FeedbackServiceAsyncStub
    metadata: tuple[tuple[str, str], ...] = ()


class FirstSteps:
    """What a platform does of itself when it is new. Nothing, when it is not."""

    def __init__(self, services: Services, view: View) -> None:
        self._services = services
        self._view = view

    async def train_first_policy(self) -> bool:
        """Start the first run, unless there is a policy or a run already at work.

        Returns:
            Whether there is a policy.
        """
        try:
            if await self._has_policy():
                return True
            runs = await self._runs()
            if not any(run.status in UNFINISHED for run in runs):
                await self._run(FIRST_RUN, runs)
        except grpc.aio.AioRpcError as error:
            self._view.say(BAD, f"could not start a first run: {error.details()}")
        return False

    async def record_first_segments(self) -> None:
        """Record segments of the first policy, so that the Label page has some to show."""
        try:
            if await self._has_stable() and not await self._has_segments():
                runs = [run for run in await self._runs() if run.preset == FIRST_SEGMENTS]
                if not any(run.status in UNFINISHED for run in runs):
                    await self._run(FIRST_SEGMENTS, runs)
        except grpc.aio.AioRpcError as error:
            self._view.say(BAD, f"could not record first segments: {error.details()}")

    async def _run(self, preset: str, runs: list[training_pb2.Run]) -> None:
        """Start a run of the preset, or go on with the newest one where it got stuck."""
        newest = next((run for run in runs if run.preset == preset), None)
        if newest is None or newest.status == training_pb2.RUN_STATUS_SUCCEEDED:
            await self._start(preset, newest)
        elif newest.status == training_pb2.RUN_STATUS_FAILED:
            await self._resume(newest)
        else:
            self._view.say(
                NEUTRAL,
                f"{newest.run_id} was stopped; go on with: tutelage runs resume {newest.run_id}",
            )

    async def _start(self, preset: str, after: training_pb2.Run | None) -> None:
        token = f"first-{preset}" if after is None else f"{preset}-after-{after.run_id}"
        request = training_pb2.StartRunRequest(preset=preset, request_id=token)
        training = self._services.training
        reply = await persistently(lambda: training.StartRun(request, timeout=CALL_TIMEOUT_S))
        self._view.say(NEUTRAL, f"started {reply.run.run_id} (preset {preset})")

    async def _resume(self, run: training_pb2.Run) -> None:
        request = training_pb2.ResumeRunRequest(run_id=run.run_id)
        training = self._services.training
        await persistently(lambda: training.ResumeRun(request, timeout=CALL_TIMEOUT_S))
        self._view.say(NEUTRAL, f"going on with {run.run_id}, which had failed: {run.error}")

    async def _has_policy(self) -> bool:
        return bool(await self._policies())

    async def _has_stable(self) -> bool:
        """Whether there is a policy whose segments can be recorded; others have their own names."""
        return any(p.name == POLICY and STABLE in p.aliases for p in await self._policies())

    async def _policies(self) -> list[policy_pb2.Policy]:
        policies, metadata = self._services.policies, self._services.metadata
        request = policy_pb2.ListPoliciesRequest()
        reply = await persistently(
            lambda: policies.ListPolicies(request, timeout=CALL_TIMEOUT_S, metadata=metadata)
        )
        return list(reply.policies)

    async def _has_segments(self) -> bool:
        feedback = self._services.feedback
        request = feedback_pb2.GetProgressRequest(policy=POLICY)
        try:
            reply = await persistently(
                lambda: feedback.GetProgress(request, timeout=CALL_TIMEOUT_S)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:  # nothing of this task yet
                return False
            raise
        return reply.segments > 0

    async def _runs(self) -> list[training_pb2.Run]:
        """All runs, newest first."""
        training, request = self._services.training, training_pb2.ListRunsRequest()
        reply = await persistently(lambda: training.ListRuns(request, timeout=CALL_TIMEOUT_S))
        return list(reply.runs)
