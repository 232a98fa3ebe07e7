"""Act and ActBatch against the real service: decisions, replays, and every bad input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from inference_process import InferenceProcess
from tiny_policies import CARTPOLE, dense_model, linear_model, publish, random_layers
from transports import TRANSPORTS

from services.common.action_space import Discrete
from services.common.registry import PolicyRegistry
from services.common.spec import Distribution, ObservationSpace
from tutelage import Client
from tutelage.errors import InvalidInput, NotFound, ResourceExhausted
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1 import policy_pb2_grpc
from tutelage.v1.array_pb2 import DTYPE_FLOAT32, DTYPE_FLOAT64, Array

RIGHT, LEFT = [0.0, 0.0, 0.1, 0.0], [0.0, 0.0, -0.1, 0.0]
SIZES = [4, 64, 64, 6]
WIDE = CARTPOLE.model_copy(update={"action": Discrete(n=6)})
IMAGE = CARTPOLE.model_copy(
    update={
        "observation": ObservationSpace(dtype="uint8", shape=(2, 3)),
        "action": Discrete(n=6),
        "distribution": Distribution.LOGITS,
    }
)


@pytest.fixture(scope="module", params=TRANSPORTS)
def service(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[InferenceProcess]:
    folder: Path = tmp_path_factory.mktemp("act")
    registry = PolicyRegistry(str(folder / "policies"))
    publish(registry, linear_model())
    publish(registry, linear_model((100.0, 0.0)), alias="canary")
    publish(registry, dense_model(random_layers(SIZES)), policy="wide", spec=WIDE)
    image = dense_model(random_layers([6, 6]), dtype="uint8", shape=[2, 3], output="logits")
    publish(registry, image, policy="image", spec=IMAGE)
    process = InferenceProcess(
        folder / "policies",
        folder / "log",
        inference_transport=request.param,
        inference_max_batch=16,
    )
    yield process
    assert process.stop() == 0
    assert process.records("call failed") == []


@pytest.fixture
def client(service: InferenceProcess) -> Client:
    return service.client


@pytest.fixture
def stub(service: InferenceProcess) -> Iterator[policy_pb2_grpc.PolicyServiceStub]:
    with grpc.insecure_channel(service.address) as channel:
        yield policy_pb2_grpc.PolicyServiceStub(channel)


def test_the_greedy_action_and_the_version_that_chose_it(client: Client) -> None:
    decision = client.act(RIGHT, policy="cartpole", probabilities=True)

    assert (decision.action, decision.version, decision.seed) == (1, 1, 0)
    assert decision.digest == client.policy("cartpole").versions[0].digest
    assert decision.parameters == pytest.approx([0.0, 0.3])
    right = 1 / (1 + np.exp(-0.3))
    assert decision.probabilities == pytest.approx([1 - right, right], abs=1e-6)
    assert decision.log_probability == pytest.approx(np.log(right), abs=1e-6)
    assert client.act(LEFT, policy="cartpole").action == 0


def test_requests_like_one_before_are_answered_by_their_own_observation(
    stub: policy_pb2_grpc.PolicyServiceStub,
) -> None:
    def ask(observation: list[float], alias: str = "stable", dtype: int = DTYPE_FLOAT32) -> int:
        raw = np.array(observation, dtype="<f4").tobytes()
        array = Array(raw=raw, dtype=dtype, shape=[4])
        response = stub.Act(pb.ActRequest(policy="cartpole", alias=alias, observation=array))
        assert response.version == {"stable": 1, "canary": 2}[alias]
        assert response.log_probability <= 0
        return int(response.action.discrete)

    for _ in range(3):
        assert [ask(RIGHT), ask(LEFT), ask(RIGHT)] == [1, 0, 1]
        assert ask(RIGHT, alias="canary") == 0
        for wrong in ({"observation": [np.nan] * 4}, {"observation": RIGHT, "dtype": 77}):
            with pytest.raises(grpc.RpcError) as refused:
                ask(**wrong)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_probabilities_only_when_asked_for(client: Client) -> None:
    decision = client.act(RIGHT, policy="cartpole")

    assert decision.probabilities is None
    assert decision.parameters is None


def test_aliases_and_pinned_versions_choose_the_model(client: Client) -> None:
    assert client.act(RIGHT, policy="cartpole", alias="canary").version == 2
    assert client.act(RIGHT, policy="cartpole", version=2).action == 0
    assert client.act(RIGHT, policy="cartpole", version=1).action == 1


def test_the_mask_and_temperature_shape_the_choice(client: Client) -> None:
    masked = client.act(RIGHT, policy="cartpole", mask=[True, False], probabilities=True)
    assert masked.action == 0
    assert masked.probabilities.tolist() == [1.0, 0.0]

    cold = client.act(RIGHT, policy="cartpole", temperature=0.01, probabilities=True)
    assert cold.probabilities[1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "observation",
    [
        np.array([[1, 2, 3], [4, 5, 255]], dtype=np.uint8),
        np.array([[1, 2, 3], [4, 5, 255]], dtype=np.int64),
        [[1, 2, 3], [4, 5, 255]],
    ],
)
def test_images_as_bytes_or_numbers(client: Client, observation: object) -> None:
    assert (
        client.act(observation, policy="image").action
        == client.act(np.array(observation, dtype=np.uint8), policy="image").action
    )


def test_an_epsilon_greedy_decision_can_be_replayed(client: Client) -> None:
    observation = np.random.default_rng(4).normal(size=4).astype(np.float32)
    best = client.act(observation, policy="wide").action
    for seed in range(40):
        first = client.act(observation, policy="wide", epsilon=0.5, seed=seed, probabilities=True)
        again = client.act(observation, policy="wide", epsilon=0.5, seed=first.seed)
        assert (again.action, again.seed) == (first.action, seed)
        expected = [0.5 / 6 + 0.5 * (i == best) for i in range(6)]
        assert first.probabilities == pytest.approx(expected)
        assert first.log_probability == pytest.approx(np.log(expected[first.action]))
    drawn = client.act(observation, policy="wide", epsilon=1.0)
    assert drawn.seed > 0
    assert client.act(observation, policy="wide", epsilon=0.0, seed=9).action == best


def test_an_epsilon_greedy_batch_is_its_rows_one_by_one(client: Client) -> None:
    observations = np.random.default_rng(5).normal(size=(30, 4)).astype(np.float32)
    masks = np.tile([True, False, True, True, False, True], (30, 1))
    batch = client.act_batch(observations, policy="wide", masks=masks, epsilon=0.7, seed=11)
    alone = [
        client.act(row, policy="wide", mask=masks[0], epsilon=0.7, seed=int(seed))
        for row, seed in zip(observations, batch.seeds, strict=True)
    ]
    assert batch.actions.tolist() == [decision.action for decision in alone]
    assert batch.log_probabilities.tolist() == [decision.log_probability for decision in alone]
    assert set(batch.actions.tolist()) <= {0, 2, 3, 5}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"epsilon": 1.5}, r"epsilon is 1\.5, expected a probability from 0 to 1"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": 0.5, "temperature": 2.0}, "an ε-greedy choice has no temperature"),
        ({"epsilon": 0.5, "sample": True}, "two ways to choose"),
    ],
)
def test_what_epsilon_cannot_be(client: Client, asked: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        client.act(RIGHT, policy="cartpole", **asked)


def test_epsilon_and_its_selection_need_each_other(
    stub: policy_pb2_grpc.PolicyServiceStub,
) -> None:
    request = pb.ActRequest(policy="cartpole", observation=Array(values=RIGHT))
    for parts, said in (
        ({"selection": pb.ACTION_SELECTION_EPSILON_GREEDY}, "epsilon is missing"),
        ({"epsilon": 0.1}, "epsilon is for selection 3"),
    ):
        asked = pb.ActRequest(**parts)
        asked.MergeFrom(request)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Act(asked)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert said in caught.value.details()


def test_the_value_when_asked_for(client: Client) -> None:
    assert client.act(RIGHT, policy="cartpole").value is None
    assert client.act(RIGHT, policy="cartpole", value=True).value == pytest.approx(0.3)
    masked = client.act(RIGHT, policy="cartpole", mask=[True, False], value=True)
    assert masked.value == 0.0
    masks = [[True, True], [True, False]]
    batch = client.act_batch([RIGHT, RIGHT], policy="cartpole", masks=masks, values=True)
    assert batch.values == pytest.approx([0.3, 0.0])
    with pytest.raises(InvalidInput, match="gives logits and no action values"):
        client.act(np.zeros((2, 3), np.uint8), policy="image", value=True)


def test_a_sampled_decision_can_be_replayed(client: Client) -> None:
    observation = np.random.default_rng(3).normal(size=4).astype(np.float32)
    mask = [True, True, False, True, True, True]
    for _ in range(20):
        first = client.act(observation, policy="wide", mask=mask, sample=True, temperature=3.0)
        again = client.act(
            observation,
            policy="wide",
            version=first.version,
            mask=mask,
            sample=True,
            temperature=3.0,
            seed=first.seed,
        )
        assert first.seed != 0
        assert again == first


def test_a_seed_of_0_is_a_seed_like_any_other(client: Client) -> None:
    decisions = {client.act(RIGHT, policy="wide", sample=True, seed=0).action for _ in range(5)}

    assert len(decisions) == 1


def test_each_row_of_a_batch_can_be_replayed_alone(client: Client) -> None:
    generator = np.random.default_rng(4)
    observations = generator.normal(size=(50, 4)).astype(np.float32)
    masks = generator.random((50, 6)) < 0.6
    masks[:, 5] = True
    batch = client.act_batch(
        observations,
        policy="wide",
        masks=masks,
        sample=True,
        seed=11,
        temperature=2.0,
        probabilities=True,
    )

    assert batch.seeds[0] == 11
    assert (batch.seeds != 0).all()
    assert batch.probabilities.sum(axis=1) == pytest.approx(np.ones(50))
    for i, observation in enumerate(observations):
        alone = client.act(
            observation,
            policy="wide",
            mask=masks[i],
            sample=True,
            seed=int(batch.seeds[i]),
            temperature=2.0,
            probabilities=True,
        )
        assert alone.action == batch.actions[i]
        assert alone.log_probability == batch.log_probabilities[i]
        assert alone.probabilities.tolist() == batch.probabilities[i].tolist()
        assert alone.parameters.tolist() == batch.parameters[i].tolist()


def test_a_greedy_batch_agrees_with_single_calls(client: Client) -> None:
    observations = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)

    batch = client.act_batch(observations, policy="wide")

    assert len(batch) == 40
    assert batch.seeds.tolist() == [0] * 40
    assert batch.actions.tolist() == [client.act(o, policy="wide").action for o in observations]


def test_the_two_ways_to_send_numbers_give_one_answer(client: Client) -> None:
    observation = np.random.default_rng(6).normal(size=4).astype(np.float32)

    assert client.act(observation, policy="wide", sample=True, seed=5) == client.act(
        observation.tolist(), policy="wide", sample=True, seed=5
    )


VECTOR = Array(values=RIGHT)
BAD_ACTS = [
    (pb.ActRequest(), "neither"),
    (pb.ActRequest(observation=Array(values=[1, 2, 3])), r"3 numbers.*\[4\] of float32"),
    (pb.ActRequest(observation=Array(values=[1] * 5)), r"5 numbers.*\[4\] of float32"),
    (
        pb.ActRequest(observation=Array(values=RIGHT, shape=[2, 2])),
        r"shape \[2, 2\], expected \[4\]",
    ),
    (pb.ActRequest(observation=Array(values=RIGHT, shape=[1, 4])), r"shape \[1, 4\]"),
    (pb.ActRequest(observation=Array(values=RIGHT, shape=[-2, -2])), r"expected \[4\]"),
    (pb.ActRequest(observation=Array(raw=b"\0" * 15)), "15 raw bytes, expected a multiple of 4"),
    (pb.ActRequest(observation=Array(raw=b"\0" * 12)), "3 numbers"),
    (
        pb.ActRequest(observation=Array(raw=b"\0" * 32, dtype=DTYPE_FLOAT64)),
        "dtype float64, expected float32",
    ),
    (pb.ActRequest(observation=Array(raw=b"\0" * 16, dtype=99)), "unknown dtype 99"),
    (pb.ActRequest(observation=Array(raw=b"\0" * 16, values=RIGHT)), "not both"),
    (pb.ActRequest(observation=Array(values=[0, float("nan"), 0, 0])), r"nan at \[1\]"),
    (pb.ActRequest(observation=Array(values=[0, 0, 0, float("inf")])), r"inf at \[3\]"),
    (pb.ActRequest(observation=Array(values=[0, 0, -1e300, 0])), r"-inf at \[2\]"),
    (
        pb.ActRequest(
            observation=Array(
                raw=np.array([0, np.nan, 0, 0], dtype="<f4").tobytes(), dtype=DTYPE_FLOAT32
            )
        ),
        r"nan at \[1\]",
    ),
    (pb.ActRequest(observation=Array(values=[3e38] * 4)), "not finite"),
    (pb.ActRequest(observation=VECTOR, action_mask=[False, False]), "allows no action"),
    (pb.ActRequest(observation=VECTOR, action_mask=[True] * 3), "3 flags, expected 2"),
    (pb.ActRequest(observation=VECTOR, temperature=0), "temperature is 0.0, expected a positive"),
    (pb.ActRequest(observation=VECTOR, temperature=-1), "temperature is -1.0"),
    (pb.ActRequest(observation=VECTOR, temperature=float("nan")), "temperature is nan"),
    (pb.ActRequest(observation=VECTOR, temperature=float("inf")), "temperature is inf"),
    (pb.ActRequest(observation=VECTOR, selection=7), "selection is 7, expected 1"),
    (pb.ActRequest(observation=VECTOR, version=-1), "version is -1"),
]
BAD_BATCHES = [
    (pb.ActBatchRequest(), "neither"),
    (pb.ActBatchRequest(observations=Array(values=RIGHT[:3])), r"\['n', 4\]"),
    (pb.ActBatchRequest(observations=Array(shape=[0, 4])), "neither"),
    (pb.ActBatchRequest(observations=Array(values=RIGHT, shape=[4])), r"shape \[4\], expected"),
    (
        pb.ActBatchRequest(observations=Array(values=[*RIGHT, 0, 0, 0, float("nan")])),
        r"observation 1 holds nan at \[3\]",
    ),
    (
        pb.ActBatchRequest(observations=Array(values=RIGHT * 2), action_masks=[True] * 2),
        "2 flags, expected 4",
    ),
    (
        pb.ActBatchRequest(
            observations=Array(values=RIGHT * 2), action_masks=[True, True, False, False]
        ),
        "mask 1 allows no action",
    ),
    (pb.ActBatchRequest(observations=Array(values=RIGHT * 2), temperature=0), "temperature is 0"),
]
UNKNOWN = [
    ({"policy": "lander"}, r"no policy 'lander'; there are: cartpole, image, wide"),
    ({"policy": "../cartpole"}, "no policy"),
    ({"policy": ""}, "several policies are served, name one of"),
    ({"policy": "cartpole", "version": 9}, r"no version 9, only 1, 2"),
    ({"policy": "cartpole", "alias": "beta"}, r"no alias 'beta'; there are: canary, stable"),
]


@pytest.mark.parametrize(("request_", "message"), BAD_ACTS)
def test_bad_act_requests(
    stub: policy_pb2_grpc.PolicyServiceStub, request_: pb.ActRequest, message: str
) -> None:
    request_.policy = "cartpole"
    with pytest.raises(grpc.RpcError, match=message) as refused:
        stub.Act(request_, timeout=10)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(("request_", "message"), BAD_BATCHES)
def test_bad_batch_requests(
    stub: policy_pb2_grpc.PolicyServiceStub, request_: pb.ActBatchRequest, message: str
) -> None:
    request_.policy = "cartpole"
    with pytest.raises(grpc.RpcError, match=message) as refused:
        stub.ActBatch(request_, timeout=10)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(("name", "message"), UNKNOWN)
def test_unknown_names(client: Client, name: dict[str, object], message: str) -> None:
    with pytest.raises(NotFound, match=message):
        client.act(RIGHT, **name)
    with pytest.raises(NotFound, match=message):
        client.act_batch([RIGHT], **name)


def test_an_oversized_message(client: Client) -> None:
    with pytest.raises(ResourceExhausted, match=r"larger than max \(\d+ vs\. 4194304\)"):
        client.act(np.zeros(2 << 20, dtype=np.float32), policy="cartpole")


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ({}, InvalidInput, "name a target"),
        ({"previous": False}, InvalidInput, "name a target"),
        ({"version": 0}, InvalidInput, "version is 0"),
        ({"version": 7}, NotFound, "no version 7"),
        ({"version": 1, "alias": "No/Way"}, InvalidInput, "alias 'No/Way' must be"),
        ({"previous": True, "policy": "lander"}, NotFound, "no policy 'lander'"),
    ],
)
def test_bad_set_alias_requests(
    service: InferenceProcess, target: dict[str, object], error: type[Exception], message: str
) -> None:
    request = pb.SetAliasRequest(**{"policy": "cartpole", **target})
    with pytest.raises(error, match=message):
        call(service, request)


def call(service: InferenceProcess, request: pb.SetAliasRequest) -> pb.SetAliasResponse:
    return service.client._call(service.client._stub.SetAlias, request, 10)
