"""Models that ask for more than they should get."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tiny_policies import WEIGHTS, build

W = numpy_helper.from_array(WEIGHTS, "w")
DECIDE = [
    helper.make_node("MatMul", ["x", "w"], ["q_values"]),
    helper.make_node("ArgMax", ["q_values"], ["action"], axis=1, keepdims=0),
]


def policy(nodes: Sequence[onnx.NodeProto], *constants: onnx.TensorProto) -> bytes:
    """A policy that makes `x` of its observation by these nodes."""
    return build([*nodes, *DECIDE], [W, *constants])


def numbers(name: str, values: Sequence[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def growing(*shape: int) -> bytes:
    """A policy that adds so many zeros, in a sum, to each observation."""
    return policy(
        [
            helper.make_node("Shape", ["observation"], ["whole"]),
            helper.make_node("Slice", ["whole", "zero", "one"], ["batch"]),
            helper.make_node("Concat", ["batch", "shape"], ["wide"], axis=0),
            helper.make_node("ConstantOfShape", ["wide"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros", "two"], ["sum"], keepdims=0),
            helper.make_node("Unsqueeze", ["sum", "one"], ["column"]),
            helper.make_node("Add", ["observation", "column"], ["x"]),
        ],
        numbers("zero", [0]),
        numbers("one", [1]),
        numbers("two", [1]),
        numbers("shape", shape),
    )
