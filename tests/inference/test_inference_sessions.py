"""Recurrent policies against the real service: what it remembers of whom, and what it forgets."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from inference_process import InferenceProcess
from recurrent_policies import (
    CUE,
    GRU,
    LEFT_CUE,
    NOTHING,
    RIGHT_CUE,
    Gru,
    counting_model,
    cue_model,
    gru_model,
    random_network,
    unrolled,
)
from tiny_policies import linear_model, publish
from transports import NATIVE, WHY_NOT

from services.common.embedded_redis import EmbeddedRedis
from services.common.ports import free_port
from services.common.registry import PolicyRegistry
from tutelage import AsyncClient, Client, Session
from tutelage.errors import InvalidInput, PreconditionFailed
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1 import policy_pb2_grpc
from tutelage.v1.array_pb2 import Array

StartService = Callable[..., InferenceProcess]
CUES = {"left": (LEFT_CUE, 0), "right": (RIGHT_CUE, 1)}
POLE = [0.0, 0.0, 0.1, 0.0]
# At once; and by way of the queue and the threads of slower models, on the best transport there is.
QUEUED = pytest.param(("aio" if WHY_NOT else "native", {"inference_inline_us": 0}), id="queued")
WAYS = [
    pytest.param(("aio", {}), id="aio"),
    pytest.param(("native", {}), id="native", marks=NATIVE.marks),
    QUEUED,
]


@pytest.fixture(scope="module", params=WAYS)
def service(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[InferenceProcess]:
    transport, how = request.param
    folder: Path = tmp_path_factory.mktemp("sessions")
    registry = PolicyRegistry(str(folder / "policies"))
    publish(registry, cue_model(), policy="cue", spec=CUE)
    publish(registry, gru_model(), policy="gru", spec=GRU)
    publish(registry, counting_model(), policy="count", spec=CUE)
    publish(registry, linear_model())
    process = InferenceProcess(
        folder / "policies", folder / "log", inference_transport=transport, **how
    )
    yield process
    assert process.stop() == 0
    assert process.records("call failed") == []


@pytest.fixture
def client(service: InferenceProcess) -> Client:
    return service.client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A session of the test's own."""
    return request.node.name


def test_an_action_depends_on_what_was_seen_before(client: Client, name: str) -> None:
    for side, (cue, action) in CUES.items():
        how = {"policy": "cue", "session": f"{name} {side}"}
        first = client.act(cue, episode_start=True, **how)
        assert (first.action, first.state_reset, first.state) == (action, False, b"")
    for _ in range(5):  # in turn
        for side, (_, action) in CUES.items():
            then = client.act(NOTHING, policy="cue", session=f"{name} {side}")
            assert (then.action, then.state_reset) == (action, False)


def test_an_episode_starts_with_nothing_remembered(client: Client, name: str) -> None:
    how = {"policy": "cue", "session": name, "probabilities": True}
    assert client.act(RIGHT_CUE, **how).state_reset  # nobody said that it is the first
    forgotten = client.act(NOTHING, episode_start=True, **how)
    assert forgotten.parameters == pytest.approx([0, 0], abs=1e-4)
    assert not forgotten.state_reset


@pytest.mark.parametrize("carry", [False, True])
def test_a_session_is_what_torch_makes_of_it(client: Client, name: str, carry: bool) -> None:
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(60, 2)).astype(np.float32)
    starts = [i in (0, 17, 18, 40) for i in range(60)]
    theirs = unrolled(random_network(Gru, 0), GRU, observations, starts)

    before: Any = b""
    for observation, start, values in zip(observations, starts, theirs, strict=True):
        how = {"carry_state": True, "state": before} if carry else {"session": name}
        decision = client.act(
            observation, policy="gru", episode_start=start, probabilities=True, **how
        )
        assert decision.parameters == pytest.approx(values, abs=1e-4)
        assert not decision.state_reset
        before = decision


def test_a_carried_state_makes_a_decision_again(client: Client) -> None:
    first = client.act(RIGHT_CUE, policy="cue", carry_state=True, episode_start=True)
    again = [client.act(NOTHING, policy="cue", state=first, sample=True, seed=4) for _ in range(3)]
    assert again[0] == again[1] == again[2]
    assert again[0].state != first.state


def test_a_batch_carries_the_state_of_its_rows(client: Client) -> None:
    cues = np.array([LEFT_CUE, RIGHT_CUE, RIGHT_CUE], dtype=np.float32)
    nothing = np.zeros((3, 2), dtype=np.float32)
    first = client.act_batch(cues, policy="cue", carry_state=True, episode_starts=[True] * 3)
    assert not first.state_reset
    then = client.act_batch(
        nothing,
        policy="cue",
        state=first,
        episode_starts=[False, False, True],
        probabilities=True,
    )
    assert then.actions[:2].tolist() == [0, 1]
    assert then.parameters[2] == pytest.approx([0, 0], abs=1e-4)
    assert client.act_batch(nothing, policy="cue", carry_state=True).state_reset
    with pytest.raises(InvalidInput, match="of 3 rows, expected 2"):
        client.act_batch(nothing[:2], policy="cue", state=first)
    with pytest.raises(InvalidInput, match="episode_starts has 2 flags, expected one a row, 3"):
        client.act_batch(nothing, policy="cue", state=first, episode_starts=[True] * 2)
    with pytest.raises(InvalidInput, match="of the rows of a batch nothing is kept"):
        client.act_batch(nothing, policy="cue", session="somebody")


def test_a_batch_is_its_rows_one_by_one(client: Client) -> None:
    observations = np.random.default_rng(1).normal(size=(4, 9, 2)).astype(np.float32)
    batch: Any = b""
    alone: list[Any] = [b""] * 9
    for step in observations:
        batch = client.act_batch(
            step, policy="gru", carry_state=True, state=batch, probabilities=True
        )
        for i, observation in enumerate(step):
            alone[i] = client.act(
                observation, policy="gru", carry_state=True, state=alone[i], probabilities=True
            )
            assert alone[i].parameters.tolist() == batch.parameters[i].tolist()


def test_who_asks_must_say_whose_state_it_is(client: Client) -> None:
    for _ in range(3):  # also once such requests are known
        with pytest.raises(InvalidInput, match="the policy is recurrent: name a session"):
            client.act(np.zeros(2, np.float32), policy="cue")
    with pytest.raises(InvalidInput, match="recurrent_state is damaged"):
        client.act(NOTHING, policy="cue", state=b"something else")
    other = client.act(NOTHING, policy="gru", carry_state=True, episode_start=True)
    with pytest.raises(InvalidInput, match="not of the policy 'cue'"):
        client.act(NOTHING, policy="cue", state=other)


def test_a_policy_that_remembers_nothing_reads_nothing_of_it(client: Client) -> None:
    plain = client.act(POLE, policy="cartpole")
    how = {"episode_start": True, "carry_state": True, "state": b"?", "session": "a"}
    assert client.act(POLE, policy="cartpole", **how) == plain


def test_bad_input_leaves_the_session_as_it_was(client: Client, name: str) -> None:
    how = {"policy": "cue", "session": name}
    client.act(RIGHT_CUE, episode_start=True, **how)
    for bad in ([1.0], [np.nan, 0.0]):
        with pytest.raises(InvalidInput):
            client.act(bad, **how)
    with pytest.raises(InvalidInput):
        client.act(LEFT_CUE, temperature=-1.0, **how)
    assert client.act(NOTHING, **how).action == 1


def test_the_spec_says_what_is_remembered(client: Client) -> None:
    (part,) = client.policy("gru").spec.state
    assert (part.input, part.output, list(part.shape)) == ("state_0", "next_state_0", [24])
    assert list(client.policy("cartpole").spec.state) == []


async def test_calls_of_a_session_are_answered_one_after_another(
    service: InferenceProcess, name: str
) -> None:
    async with AsyncClient(service.address) as client, AsyncClient(service.address) as other:
        decisions = await asyncio.gather(
            *(
                each.act(NOTHING, policy="count", session=name, probabilities=True)
                for each in (client, other) * 20
            )
        )
    assert sum(d.state_reset for d in decisions) == 1
    assert sorted(d.parameters[0] for d in decisions) == [*range(1, 41)]


def test_messages_of_a_stream_are_answered_in_their_order(service: InferenceProcess) -> None:
    generator = np.random.default_rng(2)
    observations = generator.normal(size=(100, 2)).astype(np.float32)
    theirs = unrolled(random_network(Gru, 0), GRU, observations, [False] * 100)
    requests = [
        pb.ActRequest(
            policy="gru", observation=Array(values=values.tolist()), include_probabilities=True
        )
        for values in observations
    ]
    with grpc.insecure_channel(service.address) as channel:
        stub = policy_pb2_grpc.PolicyServiceStub(channel)
        replies = list(stub.ActStream(iter(requests), timeout=20))
    assert np.array([reply.parameters for reply in replies]) == pytest.approx(theirs, abs=1e-4)


def test_many_sessions_at_once_are_kept_apart(service: InferenceProcess, name: str) -> None:
    failures: list[object] = []

    def play(player: int) -> None:
        cue, action = list(CUES.values())[player % 2]
        with Client(service.address) as client:
            for i in range(30):
                seen = cue if i % 10 == 0 else NOTHING
                decision = client.act(
                    seen, policy="cue", session=f"{name} {player}", episode_start=i % 10 == 0
                )
                if decision.action != action or decision.state_reset:
                    failures.append((player, i, decision))

    threads = [threading.Thread(target=play, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("carry", [False, True])
def test_a_stream_remembers(client: Client, carry: bool) -> None:
    with (
        client.stream(policy="cue", carry_state=carry) as one,
        client.stream(policy="cue", carry_state=carry) as other,
    ):
        assert one.act(LEFT_CUE, episode_start=True).action == 0
        assert other.act(RIGHT_CUE, episode_start=True).action == 1
        for _ in range(5):
            assert one.act(NOTHING).action == 0
            assert other.act(NOTHING).action == 1
        with pytest.raises(InvalidInput):
            one.act([0.0])
        decision = one.act(NOTHING)
        assert (decision.action, decision.state_reset) == (0, False)
        assert one.act(RIGHT_CUE, episode_start=True).action == 1


def test_a_stream_without_a_session_is_one(service: InferenceProcess) -> None:
    requests = [
        pb.ActRequest(policy="cue", observation=Array(values=RIGHT_CUE)),
        *(pb.ActRequest(observation=Array(values=NOTHING)) for _ in range(20)),
    ]
    with grpc.insecure_channel(service.address) as channel:
        stub = policy_pb2_grpc.PolicyServiceStub(channel)
        for _ in range(2):
            replies = list(stub.ActStream(iter(requests), timeout=20))
            assert [reply.action.discrete for reply in replies] == [1] * 21
            assert [reply.state_reset for reply in replies] == [True] + [False] * 20


@pytest.mark.parametrize("carry", [False, True])
def test_a_tracked_session_knows_where_its_episodes_start(
    start_service: StartService, registry: PolicyRegistry, tmp_path: Path, carry: bool
) -> None:
    publish(registry, cue_model(), policy="cue", spec=CUE)
    with EmbeddedRedis(tmp_path / "valkey") as server:
        client = start_service(inference_track_timeout_ms=5000, redis_url=server.url).client
        session = Session(client, policy="cue", carry_state=carry)
        for cue, action in (*CUES.values(), *CUES.values()):
            seen = cue
            for step in range(4):
                decision = session.act(seen)
                assert (decision.action, decision.state_reset) == (action, False)
                assert decision.decision_id
                seen = NOTHING
                assert session.report(seen, 1.0, terminated=step == 3)
        session.act(RIGHT_CUE)
        session.reset()
        assert session.act(LEFT_CUE).action == 0


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_what_is_kept_is_bounded_and_counted(
    start_service: StartService, registry: PolicyRegistry
) -> None:
    publish(registry, cue_model(), policy="cue", spec=CUE)
    port = free_port()
    service = start_service(inference_session_most=2, inference_metrics_port=port)
    client = service.client
    for session in "abc":
        client.act(RIGHT_CUE, session=session, episode_start=True)
    assert client.act(NOTHING, session="c").action == 1
    assert client.act(NOTHING, session="a").state_reset
    assert metric(port, "tutelage_inference_sessions{") == 2
    assert metric(port, "tutelage_inference_sessions_evicted_total{") == 2
    resets = "tutelage_inference_session_resets_total"
    assert metric(port, resets + '{policy="cue",reason="episode"}') == 3
    assert metric(port, resets + '{policy="cue",reason="unknown"}') == 1


def test_an_idle_session_is_forgotten(
    start_service: StartService, registry: PolicyRegistry
) -> None:
    publish(registry, cue_model(), policy="cue", spec=CUE)
    service = start_service(inference_session_idle_s=0.2)
    client = service.client
    client.act(RIGHT_CUE, session="a", episode_start=True)
    threading.Event().wait(0.5)
    assert client.act(NOTHING, session="a").state_reset


def test_a_carried_state_survives_a_lost_replica(
    start_service: StartService, registry: PolicyRegistry
) -> None:
    publish(registry, cue_model(), policy="cue", spec=CUE)
    first, second = start_service(), start_service()
    with Client(f"{first.address},{second.address}") as client:
        stream = client.stream(policy="cue", carry_state=True)
        decided = [stream.act(RIGHT_CUE)]
        carried = client.act(LEFT_CUE, policy="cue", carry_state=True, episode_start=True)
        first.process.kill()
        first.process.wait()
        for _ in range(4):
            carried = client.act(NOTHING, policy="cue", state=carried, timeout_s=10)
            decided.append(stream.act(NOTHING, timeout_s=10))
            assert (carried.action, carried.state_reset) == (0, False)
        assert [decision.action for decision in decided] == [1] * 5
        assert [decision.state_reset for decision in decided] == [True] + [False] * 4
        stream.close()


@pytest.mark.parametrize("carry", [False, True])
def test_a_new_version_begins_anew_and_says_so(
    start_service: StartService, registry: PolicyRegistry, carry: bool
) -> None:
    publish(registry, cue_model(), policy="cue", spec=CUE)
    service = start_service()
    client = service.client
    how = {"carry_state": True} if carry else {"session": "robot-7"}

    def act(observation: list[float], before: Any = b"") -> Any:
        state = {"state": before} if carry else {}
        return client.act(observation, policy="cue", probabilities=True, **how, **state)

    before = act(RIGHT_CUE)
    assert act(NOTHING, before).action == 1
    publish(registry, cue_model(-1.0), policy="cue", spec=CUE)
    service.wait_until_serving("cue", 2)
    after = act(NOTHING, before)
    assert (after.version, after.state_reset) == (2, True)
    assert after.parameters == pytest.approx([0, 0], abs=1e-4)
    assert (act(RIGHT_CUE, after).action, act(NOTHING, after).state_reset) == (0, False)


def test_versions_that_remember_and_that_do_not_are_two_interfaces(
    start_service: StartService, registry: PolicyRegistry
) -> None:
    plain = CUE.model_copy(update={"state": ()})
    publish(registry, cue_model(), policy="cue", spec=CUE)
    service = start_service()
    weights = np.array([[-1.0, 1.0], [0.0, 0.0]])
    publish(registry, linear_model(weights=weights), policy="cue", spec=plain, alias=None)
    with pytest.raises(PreconditionFailed, match="and a state and has 2 actions"):
        service.client.promote("cue", 2)


def test_sessions_and_carried_states_stay_with_their_side_of_a_canary(
    start_service: StartService, registry: PolicyRegistry
) -> None:
    publish(registry, cue_model(), policy="cue", spec=CUE)
    publish(registry, cue_model(-1.0), policy="cue", spec=CUE, alias="canary")
    service = start_service()
    client = service.client
    client.set_share("cue", 0.5)
    service.wait_for(lambda: client.policy("cue").shares.get("canary") == 0.5)
    sides = set()
    for i in range(24):
        how: dict[str, Any] = {"carry_state": True} if i % 2 else {"session": str(i)}
        decision = client.act(RIGHT_CUE, policy="cue", episode_start=True, **how)
        version = decision.version
        sides.add((i % 2, version))
        for _ in range(5):
            state = {"state": decision} if i % 2 else {}
            decision = client.act(NOTHING, policy="cue", **how, **state)
            assert (decision.version, decision.state_reset) == (version, False)
            assert decision.action == (1 if version == 1 else 0)
    assert len(sides) == 4
    with pytest.raises(PreconditionFailed, match="such policies have no shadow"):
        client.set_share("cue", 0.5, alias="shadow")
