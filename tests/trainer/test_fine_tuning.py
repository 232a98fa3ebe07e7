"""Fine-tuning from labels to a published policy: a real feedback service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_policies
from feedback_rig import LENGTH, FeedbackProcess, small_clip
from tiny_networks import SPEC, q_network

from services.cli.teachers import Teacher, label_pairs
from services.common.embedded_redis import EmbeddedRedis
from services.common.registry import Evaluation, PolicyManifest, PolicyRegistry
from services.trainer.config import load_preset
from services.trainer.networks import LeashedQNetwork, QNetwork
from services.trainer.published import PublishedPolicy
from services.trainer.resources import Resources
from services.trainer.reward.store import RewardModelStore
from services.trainer.runs.execute import execute
from services.trainer.runs.history import HistoryReader
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunFolder, RunStore, RunView
from services.trainer.weights import WEIGHTS, load_q_network, save_weights
from tutelage import FeedbackClient
from tutelage.v1 import feedback_pb2
from tutelage.v1 import training_pb2 as pb

SEGMENTS, LABELS = 30, 60
TINY = {
    "environment.num_envs": "8",
    "network.hidden": "[8]",
    "evaluation.period": "512",
    "evaluation.episodes": "2",
    "evaluation.confirm_episodes": "2",
    "checkpoint.period": "256",
    "min_return": "0",
    "tuning.total_env_steps": "1024",
    "tuning.rollout_steps": "16",
    "tuning.epochs": "2",
    "tuning.minibatch_size": "64",
    "reward.hidden": "[16]",
    "reward.epochs": "100",
    "reward.min_preferences": "40",
    "reward.min_accuracy": "0.6",
    "reward.max_calibration_error": "0.6",
    "recording.segments": "4",
    "recording.length": "5",
    "recording.episodes": "6",
}
# Easy to learn from a few labels: the further right the better, without a tie or an error.
RIGHT_IS_BETTER = Teacher(
    "the cart as far right as can be",
    likes=lambda observations: float(observations[:, 0].mean()),
    tie_within=0.0,
    carelessness=1e-6,
)


@dataclass(frozen=True)
class World:
    """Where runs are kept, and what they are handed."""

    runs: RunStore
    resources: Resources
    feedback: FeedbackProcess

    def start(self, policy: str, **changes: str) -> RunFolder:
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        settings = load_preset("cartpole-rlhf", TINY | {"policy": policy} | dotted)
        return self.runs.create("cartpole-rlhf", settings)

    def execute(self, folder: RunFolder, **more: Any) -> pb.RunStatus.ValueType:
        return execute(folder, self.resources, **more)

    def segments(self, policy: str) -> int:
        return int(self.feedback.progress(policy).segments)


@pytest.fixture(scope="module")
def world(
    shared_valkey: EmbeddedRedis,
    shared_feedback: FeedbackProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("tuning")
    resources = Resources(
        redis_url=shared_valkey.url,
        registry=PolicyRegistry(str(folder / "policies")),
        feedback_address=shared_feedback.address,
        reward_models=folder / "reward_models",
    )
    yield World(RunStore(folder / "runs"), resources, shared_feedback)
    resources.redis.close()


@pytest.fixture
def policy(world: World, request: pytest.FixtureRequest) -> str:
    """A policy of the test's own: published as stable, with segments at many places."""
    name = str(request.node.name).replace("_", "-")[:60]
    publish(world.resources.registry, name)
    segments = [a_segment(name, number) for number in range(SEGMENTS)]
    upload = feedback_pb2.UploadSegmentsRequest(segments=segments)
    world.feedback.stub.UploadSegments(upload)
    return name


def publish(registry: PolicyRegistry, policy: str) -> None:
    def describe(version: int, digest: str) -> PolicyManifest:
        return PolicyManifest(
            policy=policy,
            version=version,
            spec=SPEC,
            algorithm="dqn",
            run_id="before",
            env_steps=100,
            evaluation=Evaluation(episodes=2, mean_return=9, min_return=8, max_return=10),
            sha256=digest,
            published_at="2026-01-01T00:00:00Z",
        )

    files = {WEIGHTS: save_weights(q_network())}
    registry.publish(policy, tiny_policies.linear_model(), describe, files)
    registry.set_alias(policy, "stable", 1)


def a_segment(policy: str, number: int) -> feedback_pb2.Segment:
    """The cart stays about one place, which is another in each segment."""
    generator = np.random.default_rng(number)
    seen = generator.normal(0, 0.02, (LENGTH, 4))
    seen[:, 0] += np.linspace(-2, 2, SEGMENTS)[number]
    return feedback_pb2.Segment(
        policy=policy,
        policy_version=1,
        episode_id=f"episode-{number}",
        length=LENGTH,
        observation_shape=[4],
        observations=seen.astype("<f4").tobytes(),
        actions=generator.integers(0, 2, LENGTH).astype("<i8").tobytes(),
        rewards=np.ones(LENGTH, "<f4").tobytes(),
        clip=small_clip(),
        frames_per_s=25,
    )


def label_honestly(world: World, policy: str, count: int = LABELS) -> None:
    with FeedbackClient(world.feedback.address) as client:
        generator = np.random.default_rng(0)
        label_pairs(client, RIGHT_IS_BETTER, policy, "ann", count, generator)


def label_blindly(world: World, policy: str) -> None:
    generator = np.random.default_rng(0)
    for _ in range(LABELS):
        choice = generator.choice([feedback_pb2.CHOICE_LEFT, feedback_pb2.CHOICE_RIGHT])
        world.feedback.submit(world.feedback.next_pair(policy), int(choice))


def events(folder: RunFolder, kind: str) -> list[Any]:
    read = HistoryReader(folder.history).read()
    return [getattr(event, kind) for event in read if event.WhichOneof("event") == kind]


def test_labels_become_a_policy_for_people_to_compare(world: World, policy: str) -> None:
    registry = world.resources.registry
    label_honestly(world, policy)
    folder = world.start(policy)
    assert world.execute(folder) == pb.RUN_STATUS_SUCCEEDED, RunView(folder).refresh().error

    (fitted,) = events(folder, "reward_model_fitted")
    assert (fitted.policy, fitted.version, fitted.accepted) == (policy, 1, True)
    assert fitted.train_preferences + fitted.held_out_preferences == LABELS
    assert fitted.accuracy_low <= fitted.accuracy <= fitted.accuracy_high
    assert RewardModelStore(world.resources.reward_models).versions(policy) == [1]

    (published,) = events(folder, "policy_published")
    assert (published.version, published.alias) == (2, "canary")
    aliases = registry.aliases(policy)
    assert (aliases["stable"].version, aliases["canary"].version) == (1, 2)
    network, manifest = load_q_network(registry, policy, "canary")
    assert isinstance(network, LeashedQNetwork)
    assert isinstance(network.base, QNetwork)
    assert (manifest.algorithm, manifest.reward_model_version) == ("dqn-rlhf", 1)
    assert manifest.run_id == folder.run_id
    actions = PublishedPolicy(registry, policy, "canary").greedy(np.zeros((3, 4), np.float32))
    assert set(actions.tolist()) <= {0, 1}

    evaluated = events(folder, "policy_evaluated")
    assert all(np.isfinite(e.mean_learned_reward) for e in evaluated)
    assert world.segments(policy) == SEGMENTS + 4
    phases = [progress.phase for progress in events(folder, "progress")]
    assert phases[0] == "fitting reward model"
    assert {"training", "drawing clips"} <= set(phases)

    # What was tuned can be tuned again, on a leash of its own.
    again = world.start(policy, base_alias="canary", recording__segments="0")
    assert world.execute(again) == pb.RUN_STATUS_SUCCEEDED, RunView(again).refresh().error
    network, manifest = load_q_network(registry, policy, "canary")
    assert isinstance(network.base, LeashedQNetwork)
    assert (manifest.version, manifest.reward_model_version) == (3, 2)
    assert world.segments(policy) == SEGMENTS + 4


def test_where_no_candidate_does_its_task_nothing_is_published(world: World, policy: str) -> None:
    label_honestly(world, policy)
    folder = world.start(policy, min_return="501")
    assert world.execute(folder) == pb.RUN_STATUS_SUCCEEDED
    assert "no candidate returned 501" in events(folder, "message")[0].text
    assert events(folder, "policy_published") == []
    assert list(world.resources.registry.aliases(policy)) == ["stable"]
    assert world.segments(policy) == SEGMENTS + 4  # they are met all the same


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(world: World, policy: str) -> None:
    label_honestly(world, policy)
    folder = world.start(policy, recording__segments="0")
    sessions: list[RunSession] = []

    def stop_at_checkpoint(event: pb.RunEvent) -> None:
        if event.HasField("checkpoint_saved"):
            sessions[-1].stop()

    stopped = world.execute(folder, listener=stop_at_checkpoint, on_session=sessions.append)
    assert stopped == pb.RUN_STATUS_STOPPED
    reached = RunView(folder).refresh().checkpoint_env_steps
    assert 256 <= reached < 1024
    label_honestly(world, policy, count=5)  # which are for a later run
    assert world.execute(folder) == pb.RUN_STATUS_SUCCEEDED, RunView(folder).refresh().error
    assert RewardModelStore(world.resources.reward_models).versions(policy) == [1]
    assert f"resumed at {reached} env steps" in [m.text for m in events(folder, "message")]
    assert len(events(folder, "policy_published")) == 1


def test_labels_that_say_nothing_fail_at_the_gate(world: World, policy: str) -> None:
    label_blindly(world, policy)
    folder = world.start(policy, reward__min_accuracy="1.0")
    assert world.execute(folder) == pb.RUN_STATUS_FAILED
    (fitted,) = events(folder, "reward_model_fitted")
    assert not fitted.accepted
    error = RunView(folder).refresh().error
    assert error.startswith(f"reward model 1 does not pass: accuracy {fitted.accuracy:.2f} on ")
    assert f"on {fitted.held_out_preferences} held-out pairs (at least 1.0 wanted)" in error
    assert events(folder, "policy_published") == events(folder, "policy_evaluated") == []
    assert world.segments(policy) == SEGMENTS


def test_too_few_labels_fail_with_their_number(world: World, policy: str) -> None:
    label_honestly(world, policy, count=7)
    world.feedback.submit(world.feedback.next_pair(policy), feedback_pb2.CHOICE_SKIP)
    folder = world.start(policy)
    assert world.execute(folder) == pb.RUN_STATUS_FAILED
    error = RunView(folder).refresh().error
    assert error.startswith("7 preferences are too few to learn from; label at least 40 pairs")


def test_without_a_deployed_policy_one_is_to_be_trained_first(world: World) -> None:
    folder = world.start("nothing-yet")
    assert world.execute(folder) == pb.RUN_STATUS_FAILED
    assert "train one first" in RunView(folder).refresh().error


def test_a_feedback_service_that_is_away_is_named(world: World, policy: str) -> None:
    away = Resources(**{**vars_of(world.resources), "feedback_address": "127.0.0.1:1"})
    folder = world.start(policy)
    assert execute(folder, away) == pb.RUN_STATUS_FAILED
    assert "127.0.0.1:1" in RunView(folder).refresh().error


def vars_of(resources: Resources) -> dict[str, Any]:
    return {name: getattr(resources, name) for name in Resources.__dataclass_fields__}
