"""A trainer and an inference service that live in memory and speak real gRPC, for the pages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from tutelage.v1 import array_pb2, policy_pb2, training_pb2
from tutelage.v1.policy_pb2_grpc import PolicyServiceServicer, add_PolicyServiceServicer_to_server
from tutelage.v1.training_pb2_grpc import (
    TrainingServiceServicer,
    add_TrainingServiceServicer_to_server,
)

NOW_S = 1_795_000_000


@dataclass
class RecordedRun:
    run: training_pb2.Run
    events: list[training_pb2.RunEvent] = field(default_factory=list)

    def add(self, **event: object) -> None:
        sequence = len(self.events) + 1
        time = Timestamp(seconds=NOW_S + sequence)
        self.events.append(training_pb2.RunEvent(sequence=sequence, time=time, **event))


def training_run() -> RecordedRun:
    """A DQN run under way: 400 episodes, three evaluations, two versions."""
    progress = training_pb2.RunProgress(
        phase="training",
        done=31_500,
        total=60_000,
        unit="env steps",
        rate=1_840,
        remaining_s=15.5,
        mean_return=312.4,
        episodes=400,
    )
    recorded = RecordedRun(
        training_pb2.Run(
            run_id="cartpole-dqn-20261122-101500-3f2a",
            preset="cartpole-dqn",
            algorithm="dqn",
            policy="cartpole",
            seed=7,
            status=training_pb2.RUN_STATUS_RUNNING,
            config_yaml="algorithm: dqn\n",
            created_at=Timestamp(seconds=NOW_S),
            progress=progress,
            published_versions=[1, 2],
            checkpoint_env_steps=30_000,
        )
    )
    generator = np.random.default_rng(0)
    recorded.add(
        status_changed=training_pb2.RunStatusChanged(status=training_pb2.RUN_STATUS_RUNNING)
    )
    steps = 0
    for episode in range(1, 401):
        mean = 20 + 420 / (1 + math.exp(-(episode - 230) / 40))
        value = float(np.clip(generator.normal(mean, 15 + mean / 4), 9, 500))
        steps += 60 + episode // 20
        recorded.add(
            episode_ended=training_pb2.EpisodeEnded(
                episode=episode, env_steps=steps, episode_return=value, length=int(value)
            )
        )
        if episode % 4 == 0:
            recorded.add(
                metrics=training_pb2.Metrics(
                    env_steps=steps,
                    values={
                        "loss": 0.4 * math.exp(-episode / 150) + 0.02 * generator.random(),
                        "epsilon": max(0.04, 1 - episode / 150),
                        "q_mean": 20 + episode / 5,
                    },
                )
            )
        if episode % 100 == 0:
            mean_return = min(500.0, mean + 30)
            recorded.add(
                policy_evaluated=training_pb2.PolicyEvaluated(
                    env_steps=steps,
                    episodes=20,
                    mean_return=mean_return,
                    min_return=mean_return * 0.7,
                    max_return=min(500.0, mean_return * 1.3),
                )
            )
        if episode in (200, 300):
            recorded.add(
                policy_published=training_pb2.PolicyPublished(
                    policy="cartpole", version=episode // 100 - 1, alias="stable", digest="ab" * 32
                )
            )
    recorded.add(progress=progress)
    return recorded


def finished_runs() -> list[RecordedRun]:
    """Three seeds of PPO that have ended, one of them with another learning rate."""
    found = []
    for seed, rate in ((0, "0.001"), (1, "0.001"), (2, "0.003")):
        recorded = training_run()
        run = recorded.run
        run.run_id = f"cartpole-ppo-20261121-08000{seed}-00a{seed}"
        run.preset, run.algorithm, run.seed = "cartpole-ppo", "ppo", seed
        run.status = training_pb2.RUN_STATUS_SUCCEEDED
        run.config_yaml = f"algorithm: ppo\nseed: {seed}\nppo:\n  learning_rate: {rate}\n"
        recorded.add(
            status_changed=training_pb2.RunStatusChanged(status=training_pb2.RUN_STATUS_SUCCEEDED)
        )
        found.append(recorded)
    return found


def tuning_run() -> RecordedRun:
    """A finished fine-tuning run whose reward model was fitted twice."""
    recorded = RecordedRun(
        training_pb2.Run(
            run_id="cartpole-rlhf-20261122-111500-9c1d",
            preset="cartpole-rlhf",
            algorithm="dqn-rlhf",
            policy="cartpole",
            seed=1,
            status=training_pb2.RUN_STATUS_SUCCEEDED,
            config_yaml="algorithm: dqn-rlhf\n",
            created_at=Timestamp(seconds=NOW_S + 3600),
            ended_at=Timestamp(seconds=NOW_S + 3700),
            published_versions=[3],
        )
    )
    for version, accuracy in ((1, 0.78), (2, 0.88)):
        recorded.add(reward_model_fitted=fitted(version, accuracy))
    return recorded


def fitted(version: int, accuracy: float) -> training_pb2.RewardModelFitted:
    centres = (0.08, 0.27, 0.5, 0.74, 0.93)
    counts = (14, 8, 5, 9, 15)
    return training_pb2.RewardModelFitted(
        policy="cartpole",
        version=version,
        train_preferences=60 * version + 20,
        held_out_preferences=51,
        accuracy=accuracy,
        accuracy_low=accuracy - 0.11,
        accuracy_high=accuracy + 0.06,
        log_loss=0.58 - 0.12 * version,
        calibration_error=0.061,
        bins=[
            training_pb2.CalibrationBin(
                predicted=centre,
                observed=min(1.0, max(0.0, centre + 0.06 * (-1) ** i)),
                count=count,
            )
            for i, (centre, count) in enumerate(zip(centres, counts, strict=True))
        ],
        accepted=True,
    )


class FakeTrainer(TrainingServiceServicer):
    """Keeps runs in a list, newest first; remembers what it was asked to start and stop."""

    def __init__(self, *runs: RecordedRun) -> None:
        self.runs = list(runs)
        self.started: list[str] = []
        self.overrides: list[dict[str, str]] = []
        self.stopped: list[str] = []

    def _find(self, run_id: str, context: grpc.ServicerContext) -> RecordedRun:
        for recorded in self.runs:
            if recorded.run.run_id == run_id:
                return recorded
        context.abort(grpc.StatusCode.NOT_FOUND, f"no run {run_id!r}")
        raise AssertionError("unreachable")

    def StartRun(self, request, context):  # noqa: N802
        if "colour" in request.overrides:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unknown key 'colour'")
        self.started.append(request.preset)
        self.overrides.append(dict(request.overrides))
        run = training_pb2.Run(
            run_id=f"{request.preset}-started-{len(self.started)}",
            preset=request.preset,
            algorithm=request.preset.removeprefix("cartpole-").replace("rlhf", "dqn-rlhf"),
            policy="cartpole",
            seed=request.seed,
            status=training_pb2.RUN_STATUS_QUEUED,
            queue_place=len(self.started),
            created_at=Timestamp(seconds=NOW_S + 7200),
        )
        self.runs.insert(0, RecordedRun(run))
        return training_pb2.StartRunResponse(run=run)

    def ListPresets(self, request, context):  # noqa: N802
        return training_pb2.ListPresetsResponse(
            presets=[
                training_pb2.Preset(
                    name=name,
                    description=f"What {name} is for.",
                    algorithm=name.removeprefix("cartpole-"),
                    environment="CartPole-v1",
                    env_steps=60_000,
                    config_yaml=f"policy: cartpole\nname: {name}\n",
                )
                for name in ("cartpole-dqn", "cartpole-ppo", "cartpole-segments")
            ]
        )

    def StopRun(self, request, context):  # noqa: N802
        recorded = self._find(request.run_id, context)
        recorded.run.status = training_pb2.RUN_STATUS_STOPPED
        self.stopped.append(request.run_id)
        return training_pb2.StopRunResponse(run=recorded.run)

    def ResumeRun(self, request, context):  # noqa: N802
        recorded = self._find(request.run_id, context)
        recorded.run.status = training_pb2.RUN_STATUS_QUEUED
        return training_pb2.ResumeRunResponse(run=recorded.run)

    def GetRun(self, request, context):  # noqa: N802
        return training_pb2.GetRunResponse(run=self._find(request.run_id, context).run)

    def ListRuns(self, request, context):  # noqa: N802
        runs = [r.run for r in self.runs if request.policy in ("", r.run.policy)]
        return training_pb2.ListRunsResponse(runs=runs)

    def WatchRun(self, request, context):  # noqa: N802
        events = self._find(request.run_id, context).events[request.after_sequence :]
        yield training_pb2.WatchRunResponse(events=events)


class FakePolicies(PolicyServiceServicer):
    """One CartPole policy, three versions, which push towards where the pole falls."""

    def __init__(self) -> None:
        self.calls = 0
        self.masks: list[list[bool]] = []
        self.aliases = {"stable": 2, "canary": 3}
        self.previous = {"stable": 1}

    def policy(self) -> policy_pb2.Policy:
        versions = [
            policy_pb2.PolicyVersion(
                version=version,
                digest=f"{version}" * 64,
                algorithm="dqn" if version < 3 else "dqn-rlhf",
                env_steps=20_000 * version,
                mean_return=(312.0, 497.5, 500.0)[version - 1],
                evaluation_episodes=20,
                published_at=Timestamp(seconds=NOW_S + version),
                loaded=version > 1,
            )
            for version in (1, 2, 3)
        ]
        return policy_pb2.Policy(
            name="cartpole",
            spec=policy_pb2.PolicySpec(
                observation=policy_pb2.ObservationSpace(dtype=array_pb2.DTYPE_FLOAT32, shape=[4]),
                action=policy_pb2.ActionSpace(n=2, names=["left", "right"]),
                distribution=policy_pb2.DISTRIBUTION_Q_VALUES,
                environment="CartPole-v1",
            ),
            versions=versions,
            aliases=self.aliases,
            serving=self.aliases,
        )

    def Act(self, request, context):  # noqa: N802
        self.calls += 1
        self.masks.append(list(request.action_mask))
        _x, speed, angle, spin = np.frombuffer(request.observation.raw, "<f4")
        push = float(np.tanh(3 * (angle + 0.5 * spin + 0.05 * speed)))
        right = 0.5 + 0.48 * push
        action = int(right > 0.5)
        return policy_pb2.ActResponse(
            action=policy_pb2.Action(discrete=action),
            version=request.version or self.aliases[request.alias or "stable"],
            digest="2" * 64,
            log_probability=math.log(right if action else 1 - right),
            probabilities=[1 - right, right],
            parameters=[10 - push, 10 + push],
        )

    def ListPolicies(self, request, context):  # noqa: N802
        return policy_pb2.ListPoliciesResponse(policies=[self.policy()])

    def GetPolicy(self, request, context):  # noqa: N802
        return policy_pb2.GetPolicyResponse(policy=self.policy())

    def SetAlias(self, request, context):  # noqa: N802
        alias = request.alias or "stable"
        before = self.aliases[alias]
        after = self.previous.pop(alias, 0) if request.previous else request.version
        if not after:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"alias {alias!r} has no version to go back to"
            )
        if not request.previous:
            self.previous[alias] = before
        self.aliases[alias] = after
        return policy_pb2.SetAliasResponse(version=after, previous_version=before)


@contextmanager
def serving(trainer: FakeTrainer, policies: FakePolicies) -> Iterator[str]:
    """Serve both on one port; yields host:port."""
    server = grpc.server(ThreadPoolExecutor(8))
    add_TrainingServiceServicer_to_server(trainer, server)
    add_PolicyServiceServicer_to_server(policies, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
