"""What actions there are, how they are scaled, and what a spec makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from services.common.action_space import Box, Discrete, MultiDiscrete
from services.common.errors import InvalidInput
from services.common.registry.triton import model_configuration
from services.common.spec import Distribution, ObservationSpace, PolicySpec
from services.common.wire import encode_spec
from tutelage.v1 import array_pb2, policy_pb2

PAIR = ObservationSpace(dtype="float32", shape=(2,))
TORQUES = Box(shape=(2, 1), low=(-2, 0), high=(2, 10))
CHOICES = MultiDiscrete(nvec=(3, 2))


def spec(action: Discrete | MultiDiscrete | Box, distribution: Distribution) -> PolicySpec:
    return PolicySpec(
        environment="Probe-v0", observation=PAIR, action=action, distribution=distribution
    )


def test_normalised_units_run_from_bound_to_bound() -> None:
    np.testing.assert_array_equal(TORQUES.centre, [0, 5])
    np.testing.assert_array_equal(TORQUES.half, [2, 5])
    actions = TORQUES.rescale(np.array([[-1, 1], [0.5, 0], [3, -3]]))
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions, [[[-2], [10]], [[1], [5]], [[2], [0]]])


def test_an_element_without_a_bound_is_as_it_is() -> None:
    space = Box(shape=(3,), low=(None, 0, -1), high=(None, None, 1), dtype="float64")
    np.testing.assert_array_equal(space.bounded, [False, False, True])
    np.testing.assert_array_equal(space.rescale(np.array([[-70.0, -3, 9]])), [[-70, 0, 1]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": (0,)}, "needs 2 bounds on each side, not 1 and 2"),
        ({"high": (-2, 10)}, r"is not below high"),
        ({"low": (float("nan"), 0)}, "not below"),
        ({"dtype": "int8"}, "float32"),
    ],
)
def test_a_box_that_cannot_be_is_not_made(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Box.model_validate({**TORQUES.model_dump(), **changes})


@pytest.mark.parametrize(
    ("action", "distribution", "outputs", "parameters"),
    [
        (Discrete(n=3), Distribution.Q_VALUES, {"q_values": 3}, 3),
        (CHOICES, Distribution.LOGITS, {"logits": 5}, 5),
        (TORQUES, Distribution.GAUSSIAN, {"mean": 2, "log_std": 2}, 4),
        (TORQUES, Distribution.TANH_GAUSSIAN, {"mean": 2, "log_std": 2}, 4),
        (TORQUES, Distribution.DETERMINISTIC, {}, 2),
    ],
)
def test_what_a_model_gives_and_a_spec_that_survives_json(
    action: Discrete | MultiDiscrete | Box,
    distribution: Distribution,
    outputs: dict[str, int],
    parameters: int,
) -> None:
    made = spec(action, distribution)
    assert (made.outputs, made.parameters) == (outputs, parameters)
    assert PolicySpec.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("action", "distribution"),
    [
        (CHOICES, Distribution.Q_VALUES),
        (TORQUES, Distribution.LOGITS),
        (Discrete(n=2), Distribution.GAUSSIAN),
        (Box(shape=(), low=(None,), high=(1,)), Distribution.TANH_GAUSSIAN),
    ],
)
def test_outputs_that_do_not_fit_the_actions_are_refused(
    action: Discrete | MultiDiscrete | Box, distribution: Distribution
) -> None:
    with pytest.raises(ValidationError, match=f"{distribution.value} "):
        spec(action, distribution)


def test_a_policy_json_of_before_still_loads() -> None:
    before = """{"environment": "CartPole-v1", "observation": {"dtype": "float32", "shape": [4],
        "n": null}, "actions": 2, "action_names": ["left", "right"], "distribution": "q_values"}"""
    loaded = PolicySpec.model_validate_json(before)
    assert loaded.action == Discrete(n=2, names=("left", "right"))
    assert loaded.actions == 2


def test_masks_of_components() -> None:
    chooser = spec(CHOICES, Distribution.LOGITS)
    chooser.check_masks(np.array([[True, False, False, False, True]]))
    with pytest.raises(InvalidInput, match="mask 1 allows no action of component 1"):
        chooser.check_masks(np.array([[True] * 5, [True, True, True, False, False]]))
    with pytest.raises(InvalidInput, match="has 4 flags, expected one for each of 5"):
        chooser.check_masks(np.ones((1, 4), bool))


def test_a_box_knows_no_masks() -> None:
    with pytest.raises(InvalidInput, match=r"means nothing for actions in Box\(\[-2.0, 0.0\]"):
        spec(TORQUES, Distribution.GAUSSIAN).check_masks(np.ones((1, 2), bool))


def test_spaces_on_the_wire() -> None:
    sent = encode_spec(spec(CHOICES, Distribution.LOGITS)).action
    assert (sent.kind, list(sent.nvec)) == (policy_pb2.ACTION_KIND_MULTI_DISCRETE, [3, 2])
    half_bounded = Box(shape=(2,), low=(None, 0), high=(1, None))
    message = encode_spec(spec(half_bounded, Distribution.GAUSSIAN))
    sent = message.action
    assert message.distribution == policy_pb2.DISTRIBUTION_GAUSSIAN
    assert (sent.kind, list(sent.shape)) == (policy_pb2.ACTION_KIND_BOX, [2])
    assert sent.dtype == array_pb2.DTYPE_FLOAT32
    assert (list(sent.low), list(sent.high)) == ([-np.inf, 0], [1, np.inf])


def test_triton_is_told_of_every_output() -> None:
    text = model_configuration("arm", spec(TORQUES, Distribution.GAUSSIAN))
    assert '{ name: "mean", data_type: TYPE_FP32, dims: [ 2 ] },' in text
    assert '{ name: "log_std", data_type: TYPE_FP32, dims: [ 2 ] },' in text
    assert '{ name: "action", data_type: TYPE_FP32, dims: [ 2, 1 ] }' in text
    chooser = model_configuration("arm", spec(CHOICES, Distribution.LOGITS))
    assert '{ name: "action", data_type: TYPE_INT64, dims: [ 2 ] }' in chooser


def test_triton_is_told_of_masks() -> None:
    plain = spec(CHOICES, Distribution.LOGITS)
    assert "action_mask" not in model_configuration("arm", plain)
    masked = model_configuration("arm", plain.model_copy(update={"masked": True}))
    flags = plain.actions
    assert f'{{ name: "action_mask", data_type: TYPE_BOOL, dims: [ {flags} ] }}\n]' in masked


def test_what_acts_in_a_box_takes_no_mask() -> None:
    content = spec(TORQUES, Distribution.GAUSSIAN).model_dump() | {"masked": True}
    with pytest.raises(ValidationError, match="an action mask means nothing"):
        PolicySpec.model_validate(content)


def test_clients_are_told_of_masks() -> None:
    plain = spec(CHOICES, Distribution.LOGITS)
    assert not encode_spec(plain).masked
    assert encode_spec(plain.model_copy(update={"masked": True})).masked
