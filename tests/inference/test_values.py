"""The value of an actor's critic, which its model gives beside the distribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError
from tiny_policies import CARTPOLE, WEIGHTS, dense_model, linear_model, publish

from services.common.errors import ModelRejected
from services.common.registry import PolicyRegistry
from services.common.registry.triton import model_configuration
from services.common.spec import Distribution, PolicySpec
from services.inference.runner import PolicyRunner
from tutelage import errors

ACTOR = CARTPOLE.model_copy(update={"distribution": Distribution.LOGITS})
CRITIC = ACTOR.model_copy(update={"valued": True})
STATE = np.array([1, 2, 3, 4], np.float32)


def valued_model(
    shape: tuple[int | str, ...] = ("batch",), dtype: int = TensorProto.FLOAT
) -> bytes:
    """Logits of an actor, and observation @ (1, 10, 100, 1000) for a value."""
    model = onnx.load_model_from_string(
        dense_model([(WEIGHTS, np.zeros(2, np.float32))], output="logits")
    )
    graph = model.graph
    weights = np.array([1, 10, 100, 1000], np.float32)
    graph.initializer.append(numpy_helper.from_array(weights, "of_value"))
    graph.node.append(helper.make_node("MatMul", ["observation", "of_value"], ["exact"]))
    graph.node.append(helper.make_node("Cast", ["exact"], ["value"], to=dtype))
    graph.output.append(helper.make_tensor_value_info("value", dtype, ["batch"]))
    return bytes(model.SerializeToString())


def test_values_are_given_when_they_are_asked_for(
    start_service, registry: PolicyRegistry, tmp_path: Path
) -> None:
    publish(registry, valued_model(), spec=CRITIC)
    service = start_service(inference_decision_log=tmp_path / "log")
    client = service.client
    assert client.act(STATE).value is None
    for how in ({}, {"sample": True, "seed": 3}, {"mask": [True, False]}):
        assert client.act(STATE, value=True, **how).value == 4321
    values = client.act_batch(np.stack([STATE, 2 * STATE]), values=True).values
    assert values is not None
    assert values.tolist() == [4321, 8642]
    assert client.policy().spec.valued
    assert service.stop() == 0
    (path,) = (tmp_path / "log" / "cartpole").iterdir()
    logged = pq.read_table(path)["value"].to_pylist()
    assert logged == [None, 4321, 4321, 4321, 4321, 8642]


def test_a_model_without_has_none(start_service, registry: PolicyRegistry) -> None:
    publish(registry, dense_model([(WEIGHTS, np.zeros(2))], output="logits"), spec=ACTOR)
    client = start_service().client
    with pytest.raises(errors.InvalidInput, match="its model has no output `value`"):
        client.act(STATE, value=True)
    with pytest.raises(errors.InvalidInput, match="leave include_value out"):
        client.act_batch([STATE], values=True)
    assert not client.policy().spec.valued


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (dense_model([(WEIGHTS, np.zeros(2))], output="logits"), "none of them is what its spec"),
        (valued_model(dtype=TensorProto.DOUBLE), "output 'value' is"),
    ],
)
def test_a_model_must_have_the_value_that_its_spec_says(model: bytes, reason: str) -> None:
    with pytest.raises(ModelRejected, match=reason):
        PolicyRunner(model, CRITIC)


def test_what_is_not_asked_for_is_not_computed() -> None:
    runner = PolicyRunner(valued_model(), CRITIC)
    assert [node.name for node in runner._session.get_outputs()] == ["logits", "action"]


def test_action_values_need_no_critic() -> None:
    with pytest.raises(ValidationError, match="a critic's value is of policies without"):
        PolicySpec.model_validate({**CARTPOLE.model_dump(), "valued": True})
    assert PolicyRunner(linear_model(), CARTPOLE).spec.valued is False


def test_triton_is_told_of_it() -> None:
    assert '{ name: "value", data_type: TYPE_FP32' in model_configuration("cartpole", CRITIC)
    assert "value" not in model_configuration("cartpole", ACTOR)
