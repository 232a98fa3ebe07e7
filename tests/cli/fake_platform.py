"""The three services with recorded answers: in-process for the commands, and as a script that
the launcher starts in their place. What they are told is kept in a folder, so that it
outlives a kill -9 as the real services' state does.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tutelage.v1 import feedback_pb2, policy_pb2, training_pb2
from tutelage.v1.feedback_pb2_grpc import (
    FeedbackServiceServicer,
    add_FeedbackServiceServicer_to_server,
)
from tutelage.v1.policy_pb2_grpc import PolicyServiceServicer, add_PolicyServiceServicer_to_server
from tutelage.v1.training_pb2_grpc import (
    TrainingServiceServicer,
    add_TrainingServiceServicer_to_server,
)

DIGEST = "ab" * 32


class FakeTraining(TrainingServiceServicer):
    """Runs start when asked and stay RUNNING until stopped; each has published version 3."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stopping = threading.Event()

    def save(self, run: training_pb2.Run) -> training_pb2.Run:
        (self.folder / f"{run.run_id}.run.json").write_text(json_format.MessageToJson(run))
        return run

    def runs(self) -> list[training_pb2.Run]:
        paths = sorted(self.folder.glob("*.run.json"))
        return [json_format.Parse(p.read_text(), training_pb2.Run()) for p in paths]

    def _find(self, run_id: str, context: grpc.ServicerContext) -> training_pb2.Run:
        for run in self.runs():
            if run.run_id == run_id:
                return run
        context.abort(grpc.StatusCode.NOT_FOUND, f"no run {run_id!r}")

    def StartRun(self, request, context):  # noqa: N802
        if not request.preset.startswith("cartpole"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no preset {request.preset!r}")
        with (self.folder / "tokens").open("a") as tokens:
            tokens.write(f"{request.request_id}\n")
        run = a_run(f"{request.preset}-1", preset=request.preset)
        return training_pb2.StartRunResponse(run=self.save(run))

    def StopRun(self, request, context):  # noqa: N802
        run = self._find(request.run_id, context)
        run.status = training_pb2.RUN_STATUS_STOPPED
        return training_pb2.StopRunResponse(run=self.save(run))

    def ResumeRun(self, request, context):  # noqa: N802
        run = self._find(request.run_id, context)
        if run.status in (training_pb2.RUN_STATUS_QUEUED, training_pb2.RUN_STATUS_RUNNING):
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"run {run.run_id} is running already"
            )
        run.status = training_pb2.RUN_STATUS_RUNNING
        return training_pb2.ResumeRunResponse(run=self.save(run))

    def GetRun(self, request, context):  # noqa: N802
        return training_pb2.GetRunResponse(run=self._find(request.run_id, context))

    def ListRuns(self, request, context):  # noqa: N802
        runs = [r for r in self.runs() if request.policy in ("", r.policy)]
        return training_pb2.ListRunsResponse(runs=runs)

    def WatchRun(self, request, context) -> Iterator[training_pb2.WatchRunResponse]:  # noqa: N802
        run = self._find(request.run_id, context)
        events = events_of(run)
        yield training_pb2.WatchRunResponse(events=events[request.after_sequence :])
        while request.follow and context.is_active() and not self.stopping.wait(0.05):
            if self._find(run.run_id, context).status != training_pb2.RUN_STATUS_RUNNING:
                return


class FakePolicies(PolicyServiceServicer):
    """Holds cartpole with versions 1 to 3, once `served` is in the folder; stable is at 3."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[object] = []

    def Act(self, request, context):  # noqa: N802
        self.requests.append(request)
        if request.policy not in ("", "cartpole"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no policy {request.policy!r}")
        if len(request.observation.values or request.observation.raw) in (0, 1):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "observation has shape [1]")
        return policy_pb2.ActResponse(
            action=policy_pb2.Action(discrete=1),
            version=request.version or 3,
            digest=DIGEST,
            log_probability=-0.25,
            seed=request.seed,
            probabilities=[0.25, 0.75] if request.include_probabilities else [],
            parameters=[1.0, 2.0] if request.include_probabilities else [],
        )

    def GetPolicy(self, request, context):  # noqa: N802
        if request.policy not in ("", "cartpole"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no policy {request.policy!r}")
        return policy_pb2.GetPolicyResponse(policy=cartpole())

    def ListPolicies(self, request, context):  # noqa: N802
        served = (self.folder / "served").exists()
        return policy_pb2.ListPoliciesResponse(policies=[cartpole()] if served else [])

    def SetAlias(self, request, context):  # noqa: N802
        self.requests.append(request)
        if request.version > 3:
            context.abort(grpc.StatusCode.NOT_FOUND, "policy 'cartpole' has no version 9")
        now = request.version or 2
        return policy_pb2.SetAliasResponse(version=now, previous_version=3)


class FakeFeedback(FeedbackServiceServicer):
    """Has no segments yet."""

    def GetProgress(self, request, context):  # noqa: N802
        return feedback_pb2.GetProgressResponse(policy=request.policy, goal=200)


def a_run(run_id: str, *, preset: str = "cartpole-dqn") -> training_pb2.Run:
    """A run at a third of its way."""
    now = Timestamp()
    now.GetCurrentTime()
    return training_pb2.Run(
        run_id=run_id,
        preset=preset,
        algorithm="dqn",
        policy="cartpole",
        seed=7,
        status=training_pb2.RUN_STATUS_RUNNING,
        config_yaml="seed: 7\n",
        created_at=now,
        progress=a_progress(),
        published_versions=[1, 2, 3],
        checkpoint_env_steps=10_000,
    )


def a_progress() -> training_pb2.RunProgress:
    """A third done."""
    return training_pb2.RunProgress(
        phase="training",
        done=10_000,
        total=30_000,
        unit="env steps",
        rate=1250.0,
        remaining_s=16.0,
        mean_return=201.5,
        episodes=99,
    )


def events_of(run: training_pb2.Run) -> list[training_pb2.RunEvent]:
    """What a run has to tell, made up on the spot."""
    now = Timestamp()
    now.GetCurrentTime()
    evaluated = training_pb2.PolicyEvaluated(episodes=100, mean_return=483.1)
    published = training_pb2.PolicyPublished(policy="cartpole", version=3, alias="stable")
    return [
        training_pb2.RunEvent(sequence=1, time=now, progress=a_progress()),
        training_pb2.RunEvent(sequence=2, time=now, policy_evaluated=evaluated),
        training_pb2.RunEvent(sequence=3, time=now, policy_published=published),
    ]


def cartpole() -> policy_pb2.Policy:
    """CartPole with three versions, of which the newest is refused and 3 is served."""
    published = Timestamp(seconds=1_790_000_000)
    versions = [
        policy_pb2.PolicyVersion(
            version=number,
            digest=DIGEST,
            algorithm="dqn",
            run_id="cartpole-dqn-1",
            env_steps=10_000 * number,
            mean_return=150.0 * number,
            evaluation_episodes=20,
            published_at=published,
            loaded=True,
        )
        for number in (1, 2, 3)
    ]
    return policy_pb2.Policy(
        name="cartpole",
        spec=policy_pb2.PolicySpec(
            observation=policy_pb2.ObservationSpace(dtype=1, shape=[4]),
            action=policy_pb2.ActionSpace(n=2, names=["left", "right"]),
            distribution=policy_pb2.DISTRIBUTION_Q_VALUES,
            environment="CartPole-v1",
        ),
        versions=versions,
        aliases={"stable": 3, "canary": 2},
        serving={"stable": 3, "canary": 2},
    )


class FakePlatform:
    """All three on one port of the loopback address."""

    def __init__(self, folder: Path, address: str = "127.0.0.1:0") -> None:
        self.training = FakeTraining(folder)
        self.policies = FakePolicies(folder)
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        add_TrainingServiceServicer_to_server(self.training, self._server)
        add_PolicyServiceServicer_to_server(self.policies, self._server)
        add_FeedbackServiceServicer_to_server(FakeFeedback(), self._server)
        healthy = health.HealthServicer()
        healthy.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(healthy, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(address)}"
        self._server.start()

    def stop(self) -> None:
        """Stop at once."""
        self.training.stopping.set()
        self._server.stop(None).wait()


def serve(folder: Path, address: str) -> None:
    """Serve until SIGTERM."""
    platform = FakePlatform(folder, address)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    platform.stop()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
