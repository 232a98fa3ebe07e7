"""Act and ActBatch of MultiDiscrete and Box actions against the real service."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from inference_process import InferenceProcess
from tiny_policies import CARTPOLE, box_model, components_model, linear_model, publish

from services.common.action_space import Box, MultiDiscrete
from services.common.errors import ModelRejected
from services.common.registry import PolicyRegistry
from services.common.spec import Distribution, PolicySpec
from services.inference.runner import PolicyRunner
from tutelage import Client
from tutelage.errors import InvalidInput
from tutelage.v1 import policy_pb2

ARM_SPACE = Box(shape=(2, 1), low=(-2, 0), high=(2, 10))
RIGHT = [0.0, 0.0, 0.1, 0.0]


def spec(action: Box | MultiDiscrete, distribution: Distribution) -> PolicySpec:
    return CARTPOLE.model_copy(update={"action": action, "distribution": distribution})


ARM = spec(ARM_SPACE, Distribution.TANH_GAUSSIAN)
LEG = spec(ARM_SPACE, Distribution.GAUSSIAN)
RAIL = spec(ARM_SPACE, Distribution.DETERMINISTIC)
PAD = spec(MultiDiscrete(nvec=(3, 2)), Distribution.LOGITS)
WEIGHTS = np.array([[0, 0], [0, 0], [5, -5], [0, 1]], np.float32)  # mean ±0.5 for RIGHT
PAD_WEIGHTS = np.array([[0] * 5, [0] * 5, [0, 10, 0, 0, -10], [1, 0, 0, 2, 0]], np.float32)
LOG_STD = (math.log(0.5), math.log(0.2))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder: Path = tmp_path_factory.mktemp("vectors")
    registry = PolicyRegistry(str(folder / "policies"))
    for name, made in (("arm", ARM), ("leg", LEG), ("rail", RAIL)):
        publish(registry, box_model(made, WEIGHTS, LOG_STD), policy=name, spec=made)
    publish(registry, components_model(PAD, PAD_WEIGHTS), policy="pad", spec=PAD)
    process = InferenceProcess(folder / "policies", folder / "log", inference_max_batch=16)
    yield process.client
    assert process.stop() == 0
    assert process.records("call failed") == []


def test_the_greedy_action_is_in_the_boxs_own_units(client: Client) -> None:
    decision = client.act(RIGHT, policy="arm", probabilities=True)

    assert isinstance(decision.action, np.ndarray)
    assert (decision.action.shape, decision.action.dtype) == ((2, 1), np.float32)
    expected = [[2 * math.tanh(0.5)], [5 + 5 * math.tanh(-0.5)]]
    np.testing.assert_allclose(decision.action, expected, rtol=1e-5)
    assert decision.probabilities is None
    assert decision.parameters == pytest.approx([0.5, -0.5, *LOG_STD], abs=1e-6)
    slopes = [half * (1 - math.tanh(0.5) ** 2) for half in (2, 5)]
    densities = [1 / (std * math.sqrt(math.tau)) for std in (0.5, 0.2)]
    by_hand = sum(math.log(d / s) for d, s in zip(densities, slopes, strict=True))
    assert decision.log_probability == pytest.approx(by_hand, abs=1e-5)


def test_a_gaussian_is_clipped_to_the_bounds(client: Client) -> None:
    far = client.act([0, 0, 1, 0], policy="leg")
    np.testing.assert_array_equal(far.action, [[2], [0]])
    near = client.act(RIGHT, policy="leg")
    np.testing.assert_allclose(near.action, [[1], [2.5]], rtol=1e-6)


def test_a_deterministic_policy_acts_and_has_nothing_to_draw(client: Client) -> None:
    decision = client.act(RIGHT, policy="rail", probabilities=True)
    np.testing.assert_allclose(decision.action, [[1], [2.5]], rtol=1e-6)
    assert decision.log_probability == 0
    assert decision.parameters == pytest.approx([1, 2.5])
    with pytest.raises(InvalidInput, match=r"deterministic, .* nothing to sample"):
        client.act(RIGHT, policy="rail", sample=True)


def test_each_component_is_chosen(client: Client) -> None:
    decision = client.act(RIGHT, policy="pad", probabilities=True)
    assert isinstance(decision.action, np.ndarray)
    assert (decision.action.tolist(), decision.action.dtype) == ([1, 0], np.int64)
    first = np.exp([0, 1, 0]) / np.exp([0, 1, 0]).sum()
    second = np.exp([0, -1]) / np.exp([0, -1]).sum()
    assert decision.probabilities == pytest.approx([*first, *second], abs=1e-6)
    assert decision.log_probability == pytest.approx(math.log(first[1] * second[0]), abs=1e-6)
    masked = client.act(RIGHT, policy="pad", mask=[True, False, True, False, True])
    assert isinstance(masked.action, np.ndarray)
    assert masked.action.tolist() == [0, 1]


@pytest.mark.parametrize("policy", ["arm", "leg", "pad"])
def test_each_drawn_row_of_a_batch_can_be_replayed_alone(client: Client, policy: str) -> None:
    observations = np.random.default_rng(0).normal(0, 0.3, (40, 4)).astype(np.float32)
    options = {"policy": policy, "sample": True, "temperature": 1.5, "probabilities": True}
    batch = client.act_batch(observations, seed=7, **options)

    again = client.act_batch(observations, seed=7, **options)
    np.testing.assert_array_equal(batch.actions, again.actions)
    assert len(np.unique(batch.actions, axis=0)) > 4
    for i, observation in enumerate(observations):
        alone = client.act(observation, seed=int(batch.seeds[i]), **options)
        np.testing.assert_array_equal(alone.action, batch.actions[i])
        assert alone.log_probability == batch.log_probabilities[i]
        assert alone.parameters is not None
        assert batch.parameters is not None
        np.testing.assert_array_equal(alone.parameters, batch.parameters[i])


def test_a_box_takes_no_mask(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"mask means nothing for actions in Box"):
        client.act(RIGHT, policy="arm", mask=[True, True])
    with pytest.raises(InvalidInput, match="mask 0 allows no action of component 1"):
        client.act(RIGHT, policy="pad", mask=[True, True, True, False, False])
    with pytest.raises(InvalidInput, match="4 flags, expected 5"):
        client.act(RIGHT, policy="pad", mask=[True] * 4)


def test_policies_tell_their_spaces(client: Client) -> None:
    arm = client.policy("arm").spec
    assert arm.distribution == policy_pb2.DISTRIBUTION_TANH_GAUSSIAN
    assert arm.action.kind == policy_pb2.ACTION_KIND_BOX
    assert (list(arm.action.shape), list(arm.action.high)) == ([2, 1], [2, 10])
    assert list(client.policy("pad").spec.action.nvec) == [3, 2]


@pytest.mark.parametrize(
    ("model", "wanted", "message"),
    [
        (box_model(LEG, WEIGHTS, LOG_STD), ARM, "'action' is 0.* off what mean says"),
        (box_model(RAIL, WEIGHTS, LOG_STD), ARM, "no output 'mean'"),
        (linear_model(), PAD, "no output 'logits'"),
        (
            box_model(LEG, WEIGHTS, LOG_STD),
            spec(Box(shape=(2,), low=(-2, 0), high=(2, 10)), Distribution.GAUSSIAN),
            "'action' is .* the spec expects",
        ),
        (
            box_model(RAIL, WEIGHTS, LOG_STD),
            spec(Box(shape=(2, 1), low=(-1, 0), high=(1, 1)), Distribution.DETERMINISTIC),
            "leaves the bounds",
        ),
    ],
)
def test_models_that_are_not_what_their_spec_says(
    model: bytes, wanted: PolicySpec, message: str
) -> None:
    with pytest.raises(ModelRejected, match=message):
        PolicyRunner(model, wanted)
