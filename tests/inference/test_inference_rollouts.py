"""Canaries that answer a share of the calls, and shadows that are shown them: two replicas."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from inference_process import InferenceProcess
from tiny_policies import CARTPOLE, WEIGHTS, dense_model, linear_model, publish, random_layers
from transports import TRANSPORTS

from services.common.action_space import Discrete
from services.common.ports import free_port
from services.common.registry import PolicyRegistry
from services.inference.canary import RUNS, CanaryGuard, CanaryLimits
from services.inference.split import Split, place
from tutelage.errors import InvalidInput, NotFound, PreconditionFailed

RIGHT = np.array([0, 0, 0.1, 0], np.float32)
FAR = np.array([0, 0, 100, 0], np.float32)
LEFT_BIASED = linear_model((100.0, 0.0))
# Finite near where it is tried out, and not finite far from there.
OVERFLOWS = linear_model(weights=WEIGHTS * 1e37)


class World:
    """Two replicas and a repository."""

    def __init__(self, folder: Path, transport: str) -> None:
        self.registry = PolicyRegistry(str(folder / "policies"))
        publish(self.registry, linear_model())
        self.metrics_port = free_port()
        self.replicas = [
            InferenceProcess(
                folder / "policies",
                folder / f"log-{i}",
                inference_transport=transport,
                **({"inference_metrics_port": self.metrics_port} if not i else {}),
            )
            for i in range(2)
        ]
        self.client = self.replicas[0].client

    def served(self, canary: bytes, alias: str = "canary") -> str:
        """A policy whose second version is on trial, once both replicas serve both."""
        name = f"probe-{uuid.uuid4().hex[:8]}"
        publish(self.registry, linear_model(), policy=name)
        publish(self.registry, canary, policy=name, alias=alias)
        for replica in self.replicas:
            replica.wait_until_serving(name, 1)
            replica.wait_until_serving(name, 2, alias)
        return name

    def share(self, policy: str, share: float, alias: str = "canary") -> None:
        """Give it, and wait until all replicas know."""
        self.client.set_share(policy, share, alias=alias)
        self.until_shares(policy, {alias: share} if share else {})

    def until_shares(self, policy: str, shares: dict[str, float]) -> None:
        for replica in self.replicas:
            replica.wait_for(lambda r=replica: dict(r.client.policy(policy).shares) == shares)

    def metric(self, name: str, policy: str) -> float:
        """Of the first replica."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as page:
            lines = page.read().decode().splitlines()
        labels = f'{name}{{policy="{policy}"'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(labels))


@pytest.fixture(scope="module", params=TRANSPORTS)
def world(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("rollouts"), request.param)
    yield world
    for replica in world.replicas:
        assert replica.stop() == 0
        assert replica.records("call failed") == []


def versions(world: World, policy: str, replica: int = 0) -> dict[str, int]:
    """Which version answers each of many sessions."""
    client = world.replicas[replica].client
    names = [f"robot-{i}" for i in range(200)]
    return {n: client.act(RIGHT, policy=policy, session=n).version for n in names}


def test_a_canary_answers_a_share_of_the_sessions_on_any_replica(world: World) -> None:
    policy = world.served(LEFT_BIASED)
    assert set(versions(world, policy).values()) == {1}
    world.share(policy, 0.3)
    few = versions(world, policy)
    assert few == versions(world, policy) == versions(world, policy, replica=1)
    assert 30 < list(few.values()).count(2) < 90
    assert few == {name: 2 if place(policy, name) < 0.3 else 1 for name in few}
    world.share(policy, 0.6)
    more = versions(world, policy)
    assert all(more[name] == 2 for name, version in few.items() if version == 2)
    assert 90 < list(more.values()).count(2) < 150
    assert world.metric("tutelage_inference_canary_share", policy) == 0.6
    world.share(policy, 0)
    assert set(versions(world, policy).values()) == {1}


def test_calls_without_a_session_are_shared_out_one_by_one(world: World) -> None:
    policy = world.served(LEFT_BIASED)
    world.share(policy, 0.5)
    found = [world.client.act(RIGHT, policy=policy).version for _ in range(200)]
    assert 60 < found.count(2) < 140
    batch = [world.client.act_batch([RIGHT], policy=policy, session="s").version for _ in range(9)]
    assert len(set(batch)) == 1


def test_who_names_a_version_or_another_alias_gets_it(world: World) -> None:
    policy = world.served(LEFT_BIASED)
    world.share(policy, 1.0)
    assert world.client.act(RIGHT, policy=policy).version == 2
    assert world.client.act(RIGHT, policy=policy, version=1).version == 1
    assert world.client.act(RIGHT, policy=policy, alias="canary").version == 2


def test_a_share_comes_with_an_alias_and_stays_as_it_moves(world: World) -> None:
    policy = world.served(LEFT_BIASED)
    answer = world.client.set_alias(policy, "canary", 2, share=0.25)
    assert (answer.version, answer.previous_version) == (2, 2)
    assert dict(world.client.policy(policy).shares) == {"canary": 0.25}
    publish(world.registry, linear_model(), policy=policy, alias=None)
    world.client.set_alias(policy, "canary", 3)
    assert world.registry.aliases(policy)["canary"].share == 0.25
    world.client.rollback(policy, "canary")
    assert world.registry.aliases(policy)["canary"].share == 0.25


def test_shares_that_cannot_be(world: World) -> None:
    policy = world.served(LEFT_BIASED)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInput, match="expected a number from 0 to 1"):
            world.client.set_share(policy, share)
    with pytest.raises(InvalidInput, match="expected canary or shadow"):
        world.client.set_share(policy, 0.5, alias="stable")
    with pytest.raises(PreconditionFailed, match="points at no version yet"):
        world.client.set_share(policy, 0.5, alias="shadow")
    with pytest.raises(NotFound):
        world.client.set_share("ghost", 0.5)
    with pytest.raises(InvalidInput):
        world.client.set_alias(policy, "canary", 1, share=2.0)
    assert world.registry.aliases(policy)["canary"].version == 2


def test_a_canary_of_another_interface_has_no_share(world: World) -> None:
    policy = world.served(LEFT_BIASED)
    wide = CARTPOLE.model_copy(update={"action": Discrete(n=3)})
    model = dense_model(random_layers([4, 3]))
    publish(world.registry, model, policy=policy, spec=wide, alias="shadow")
    world.replicas[0].wait_until_serving(policy, 3, "shadow")
    with pytest.raises(PreconditionFailed, match="publish it as a policy of another name"):
        world.client.set_share(policy, 0.5, alias="shadow")


def test_a_canary_that_errs_loses_its_share_everywhere(world: World) -> None:
    policy = world.served(OVERFLOWS)
    world.share(policy, 1.0)
    assert world.client.act(RIGHT, policy=policy).version == 2
    for _ in range(3):
        with pytest.raises(InvalidInput, match="not finite"):
            world.client.act(FAR, policy=policy)
    world.until_shares(policy, {})
    for replica in world.replicas:
        assert replica.client.act(FAR, policy=policy).version == 1
    assert world.metric("tutelage_inference_canary_stopped_total", policy) == 1
    (record,) = [r for r in world.replicas[0].records("canary stopped") if r["policy"] == policy]
    assert "could not answer 3 questions within 60 s that version 1 answers" in record["reason"]
    world.share(policy, 1.0)  # a person may try it again
    assert world.client.act(RIGHT, policy=policy).version == 2


def test_what_stable_cannot_answer_either_is_not_the_canarys_fault(world: World) -> None:
    policy = f"probe-{uuid.uuid4().hex[:8]}"
    publish(world.registry, OVERFLOWS, policy=policy)
    publish(world.registry, linear_model(weights=WEIGHTS * 5e36), policy=policy, alias="canary")
    world.replicas[0].wait_until_serving(policy, 2, "canary")
    world.client.set_share(policy, 1.0)
    for _ in range(6):
        with pytest.raises(InvalidInput, match="not finite"):
            world.client.act(FAR, policy=policy)
    assert dict(world.client.policy(policy).shares) == {"canary": 1.0}


def test_a_shadow_is_compared_and_never_answers(world: World) -> None:
    policy = world.served(LEFT_BIASED, alias="shadow")
    world.share(policy, 1.0, alias="shadow")
    for i in range(20):
        # The shadow goes left in any case; the stable version so in half of these.
        decision = world.client.act(RIGHT if i % 2 else -RIGHT, policy=policy)
        assert (decision.version, decision.action) == (1, i % 2)
    wait_for = world.replicas[0].wait_for
    wait_for(lambda: world.metric("tutelage_inference_shadow_rows_total", policy) == 20)
    assert world.metric("tutelage_inference_shadow_differs_total", policy) == 10
    assert world.metric("tutelage_inference_shadow_kl_count", policy) == 20
    assert world.metric("tutelage_inference_shadow_kl_sum", policy) > 20
    world.share(policy, 0, alias="shadow")
    world.client.act(RIGHT, policy=policy)
    assert world.metric("tutelage_inference_shadow_rows_total", policy) == 20


def test_a_shadow_that_fails_is_counted(world: World) -> None:
    policy = world.served(OVERFLOWS, alias="shadow")
    world.share(policy, 1.0, alias="shadow")
    assert world.client.act(FAR, policy=policy).action == 1
    world.replicas[0].wait_for(
        lambda: world.metric("tutelage_inference_shadow_errors_total", policy) == 1
    )


def guard_of(stopped: list[str]) -> CanaryGuard:
    side = SimpleNamespace(
        batcher=SimpleNamespace(observers=()), manifest=SimpleNamespace(version=1)
    )
    other = SimpleNamespace(
        batcher=SimpleNamespace(observers=()), manifest=SimpleNamespace(version=2)
    )
    split = Split("cartpole", side, other, 0.5)  # type: ignore[arg-type]
    return CanaryGuard(split, CanaryLimits(), lambda kind, reason: stopped.append(kind))


@pytest.mark.parametrize(
    ("canary_s", "stable_s", "stops"),
    [
        (0.0101, 0.001, True),
        (0.0029, 0.001, False),  # not three times as long
        (0.0009, 0.0001, False),  # less than a millisecond longer
    ],
)
def test_a_slow_canary_must_go(canary_s: float, stable_s: float, stops: bool) -> None:
    stopped: list[str] = []
    guard = guard_of(stopped)
    for _ in range(RUNS):
        guard.stable_ran(stable_s)
        guard.canary_ran(canary_s)
    assert stopped == ["latency"] * stops  # once


def test_one_slow_batch_in_a_hundred_is_no_reason() -> None:
    stopped: list[str] = []
    guard = guard_of(stopped)
    for i in range(RUNS):
        guard.stable_ran(0.001)
        guard.canary_ran(1.0 if i % 100 == 0 else 0.001)
    assert stopped == []


def test_nobody_is_judged_by_a_few_batches() -> None:
    stopped: list[str] = []
    guard = guard_of(stopped)
    for _ in range(50):
        guard.stable_ran(0.001)
        guard.canary_ran(1.0)
    assert stopped == []
