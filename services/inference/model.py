"""What is checked of a model file before any of it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from services.common.errors import ModelRejected
from services.common.spec import ACTION, MASK, VALUE, PolicySpec
from services.inference.operators import ModelLimits, check_parts

TYPES = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "uint8": "tensor(uint8)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
}


def check_content(model: bytes, limits: ModelLimits) -> None:
    """Refuse a file that is not ONNX, or holds what must not be run.

    Raises:
        ModelRejected: with the reason.
    """
    if len(model) > limits.bytes:
        raise ModelRejected(f"model.onnx has {len(model)} bytes, the limit is {limits.bytes}")
    try:
        parsed = onnx.load_model_from_string(model)
    except DecodeError:
        raise ModelRejected("model.onnx is not an ONNX file, or a part of one") from None
    if not parsed.graph.node:
        raise ModelRejected("model.onnx holds no graph")
    check_parts(parsed, limits)


def with_outputs(model: bytes, wanted: Callable[[str], bool]) -> bytes:
    """A model of these outputs alone: onnxruntime computes all that a model has, asked for or not.

    Raises:
        ModelRejected: when it has none of them.
    """
    parsed = onnx.load_model_from_string(model)
    kept = [output for output in parsed.graph.output if wanted(output.name)]
    if not kept:
        raise ModelRejected(
            f"the model's outputs are {[output.name for output in parsed.graph.output]}, "
            "and none of them is what its spec expects"
        )
    del parsed.graph.output[:]
    parsed.graph.output.extend(kept)
    content: bytes = parsed.SerializeToString()
    return content


def check_value(session: ort.InferenceSession) -> None:
    """Refuse a model of values alone that are no values.

    Raises:
        ModelRejected: with what was expected.
    """
    (node,) = session.get_outputs()
    _check_node("output", VALUE, node, TYPES["float32"], ())


def check_signature(session: ort.InferenceSession, spec: PolicySpec) -> None:
    """Refuse a model whose inputs and outputs are not what its spec says.

    Raises:
        ModelRejected: naming the input or output, what it is and what was expected.
    """
    inputs = {node.name: node for node in session.get_inputs()}
    outputs = {node.name: node for node in session.get_outputs()}
    expected = spec.observation.inputs
    known = [*expected, MASK, *(part.input for part in spec.state)]
    for name in inputs.keys() - {*known}:
        raise ModelRejected(f"input {name!r} is none of {', '.join(known)}")
    for name, space in expected.items():
        _check_node("input", name, inputs.get(name), TYPES[space.dtype], space.shape)
    if MASK in inputs and not spec.actions:
        raise ModelRejected(f"input {MASK!r} means nothing for actions in {spec.action}")
    if MASK in inputs:
        _check_node("input", MASK, inputs[MASK], "tensor(bool)", (spec.actions,))
    for name, length in spec.outputs.items():
        _check_node("output", name, outputs.get(name), "tensor(float)", (length,))
    for part in spec.state:
        _check_node("input", part.input, inputs.get(part.input), TYPES["float32"], part.shape)
        _check_node("output", part.output, outputs.get(part.output), TYPES["float32"], part.shape)
    action = (TYPES[spec.action.dtype], spec.action.shape)
    _check_node("output", ACTION, outputs.get(ACTION), *action)


def _check_node(
    kind: str, name: str, node: ort.NodeArg | None, dtype: str, shape: Sequence[int]
) -> None:
    expected = f"{dtype} of shape {['batch', *shape]}"
    if node is None:
        raise ModelRejected(f"the model has no {kind} {name!r}, the spec expects {expected}")
    given = list(node.shape)
    fits = (
        node.type == dtype
        and len(given) == len(shape) + 1
        and not isinstance(given[0], int)
        # A symbolic length is settled by the first run.
        and all(a == b or not isinstance(a, int) for a, b in zip(given[1:], shape, strict=True))
    )
    if not fits:
        raise ModelRejected(
            f"{kind} {name!r} is {node.type} of shape {given}, the spec expects {expected}"
        )
