"""Follows what the services do: runs and their events, and the versions that are served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import grpc

from services.cli.launcher.view import BAD, GOOD, NEUTRAL, View
from tutelage.v1 import policy_pb2, training_pb2

if TYPE_CHECKING:  # the generated code names these for the type checker only
    from tutelage.v1.policy_pb2_grpc import PolicyServiceAsyncStub
    from tutelage.v1.training_pb2_grpc import TrainingServiceAsyncStub

POLL_S = 1.0
CALL_TIMEOUT_S = 10.0
UNFINISHED = (training_pb2.RUN_STATUS_QUEUED, training_pb2.RUN_STATUS_RUNNING)
# A service that is being restarted answers one of these; it will be back.
PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)

T = TypeVar("T")


async def persistently(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call again until the service is there to answer it.

    Raises:
        grpc.aio.AioRpcError: when it answers with an error.
    """
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in PASSING:
                raise
        await asyncio.sleep(POLL_S)


class RunFollower:
    """Shows every run that is at work: its bar, and what it publishes and says."""

    def __init__(self, training: TrainingServiceAsyncStub, view: View) -> None:
        self._training = training
        self._view = view
        self._since = datetime.now(UTC)  # what happened before is history, not news
        self._sequence: dict[str, int] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._shown: set[str] = set()
        # There are too many of them for a line each: the newest goes with what is published.
        self._evaluations: dict[str, training_pb2.PolicyEvaluated] = {}

    async def follow(self) -> None:
        """Never returns; survives restarts of the trainer."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(POLL_S)
        finally:
            for watch in self._watches.values():
                watch.cancel()
            await asyncio.gather(*self._watches.values(), return_exceptions=True)

    async def _look(self) -> None:
        request = training_pb2.ListRunsRequest()
        reply = await persistently(lambda: self._training.ListRuns(request, timeout=CALL_TIMEOUT_S))
        for run in reply.runs:
            if run.status in UNFINISHED:
                self._watch(run.run_id)
            elif run.run_id in self._shown and self._watches[run.run_id].done():
                self._shown.discard(run.run_id)
                self._view.end_run(run.run_id)
                self._view.say(*outcome(run))

    def _watch(self, run_id: str) -> None:
        watch = self._watches.get(run_id)
        if watch is None or watch.done():
            self._shown.add(run_id)
            self._watches[run_id] = asyncio.create_task(self._events(run_id))

    async def _events(self, run_id: str) -> None:
        request = training_pb2.WatchRunRequest(
            run_id=run_id, after_sequence=self._sequence.get(run_id, 0), follow=True
        )
        try:
            async for reply in self._training.WatchRun(request):
                for event in reply.events:
                    self._sequence[run_id] = event.sequence
                    self._show(run_id, event)
        except grpc.aio.AioRpcError as error:
            if error.code() not in PASSING:
                self._view.say(BAD, f"cannot follow {run_id}: {error.details()}")

    def _show(self, run_id: str, event: training_pb2.RunEvent) -> None:
        if event.HasField("progress"):
            self._view.progress(run_id, event.progress)
        elif event.HasField("queue_moved"):
            self._view.waiting(run_id, event.queue_moved.queue_place)
        elif event.HasField("policy_evaluated"):
            self._evaluations[run_id] = event.policy_evaluated
        elif event.time.ToDatetime(tzinfo=UTC) >= self._since:
            self._tell(run_id, event)

    def _tell(self, run_id: str, event: training_pb2.RunEvent) -> None:
        line = news(run_id, event)
        if line is None:
            return
        mark, text = line
        result = self._evaluations.get(run_id)
        if event.HasField("policy_published") and result is not None:
            text += f" (mean return {result.mean_return:.1f} over {result.episodes} episodes)"
        self._view.say(mark, text)


def news(run_id: str, event: training_pb2.RunEvent) -> tuple[str, str] | None:
    """The mark and line of an event that people should hear of, if it is one."""
    match event.WhichOneof("event"):
        case "policy_published":
            published = event.policy_published
            return GOOD, f"{published.policy} version {published.version} published"
        case "policy_evaluated":
            result = event.policy_evaluated
            return NEUTRAL, (
                f"{run_id} evaluated: mean return {result.mean_return:.1f} "
                f"over {result.episodes} episodes"
            )
        case "reward_model_fitted":
            fitted = event.reward_model_fitted
            verdict = "accepted" if fitted.accepted else "not good enough"
            return (GOOD if fitted.accepted else BAD), (
                f"{fitted.policy} reward model {fitted.version} {verdict}: accuracy "
                f"{fitted.accuracy:.0%} on {fitted.held_out_preferences} held-out pairs"
            )
        case "message":
            mark = NEUTRAL if event.message.level == "info" else BAD
            return mark, f"{run_id}: {event.message.text}"
    return None


def outcome(run: training_pb2.Run) -> tuple[str, str]:
    """The mark and line of a run that has ended."""
    if run.status == training_pb2.RUN_STATUS_SUCCEEDED:
        return GOOD, f"{run.run_id} is done"
    again = f"go on with: tutelage runs resume {run.run_id}"
    if run.status == training_pb2.RUN_STATUS_FAILED:
        return BAD, f"{run.run_id} failed: {run.error}; {again}"
    return NEUTRAL, f"{run.run_id} was stopped; {again}"


class ServingFollower:
    """Says which version is served, whenever that changes."""

    def __init__(
        self,
        policies: PolicyServiceAsyncStub,
        view: View,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._policies, self._metadata = policies, metadata
        self._view = view
        self._serving: dict[tuple[str, str], int] = {}
        self._refused: set[tuple[str, int]] = set()
        self._first: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def first_policy(self) -> str:
        """Name of the first policy that is served, once there is one."""
        return await asyncio.shield(self._first)

    async def follow(self) -> None:
        """Never returns; survives restarts of the inference service."""
        request = policy_pb2.ListPoliciesRequest()
        while True:
            reply = await persistently(
                lambda: self._policies.ListPolicies(
                    request, timeout=CALL_TIMEOUT_S, metadata=self._metadata
                )
            )
            for policy in reply.policies:
                self._compare(policy.name, policy.serving)
                self._compare_refused(policy)
            await asyncio.sleep(POLL_S)

    def _compare(self, policy: str, serving: Mapping[str, int]) -> None:
        for alias, version in sorted(serving.items(), key=lambda item: item[0] != "stable"):
            if self._serving.get((policy, alias)) == version:
                continue
            self._serving[policy, alias] = version
            suffix = "" if alias == "stable" else f" as {alias}"
            self._view.say(GOOD, f"serving {policy} version {version}{suffix}")
            if not self._first.done():
                self._first.set_result(policy)

    def _compare_refused(self, policy: policy_pb2.Policy) -> None:
        for version in policy.versions:
            key = policy.name, version.version
            if version.load_error and key not in self._refused:
                self._refused.add(key)
                self._view.say(
                    BAD, f"{policy.name} version {version.version} refused: {version.load_error}"
                )
