"""Tiny ONNX policies with known weights, and a repository to publish them in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.common.action_space import Box, MultiDiscrete
from services.common.registry import (
    Evaluation,
    ObservationStatistics,
    PolicyManifest,
    PolicyRegistry,
)
from services.common.spec import Distribution, ObservationSpace, PolicySpec

# q = observation @ WEIGHTS + bias. A pole that leans right is pushed right.
WEIGHTS = np.array([[0.0, 0.1], [0.0, 0.2], [0.0, 3.0], [0.0, 1.0]], dtype=np.float32)
CARTPOLE = PolicySpec(
    environment="CartPole-v1",
    observation=ObservationSpace(dtype="float32", shape=(4,)),
    actions=2,
    action_names=("left", "right"),
    distribution=Distribution.Q_VALUES,
)
_ELEMENTS = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}


def linear_model(bias: Sequence[float] = (0.0, 0.0), *, weights: np.ndarray = WEIGHTS) -> bytes:
    """q_values = observation @ weights + bias; the greedy action beside it."""
    return dense_model([(weights, np.array(bias, dtype=np.float32))])


def dense_model(
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    dtype: str = "float32",
    shape: Sequence[int] | None = None,
    output: str = "q_values",
) -> bytes:
    """A network of dense layers with ReLU between them, on flattened observations."""
    inputs = len(layers[0][0])
    nodes = [
        helper.make_node("Flatten", ["observation"], ["flat"], axis=1),
        helper.make_node("Cast", ["flat"], ["x0"], to=TensorProto.FLOAT),
    ]
    constants = []
    for i, (weight, bias) in enumerate(layers):
        last = i == len(layers) - 1
        constants += [
            numpy_helper.from_array(weight.astype(np.float32), f"w{i}"),
            numpy_helper.from_array(bias.astype(np.float32), f"b{i}"),
        ]
        dense = output if last else f"h{i}"
        nodes.append(helper.make_node("Gemm", [f"x{i}", f"w{i}", f"b{i}"], [dense]))
        if not last:
            nodes.append(helper.make_node("Relu", [dense], [f"x{i + 1}"]))
    nodes.append(helper.make_node("ArgMax", [output], ["action"], axis=1, keepdims=0))
    return build(
        nodes,
        constants,
        observation=(dtype, shape or [inputs]),
        actions=len(layers[-1][1]),
        output=output,
    )


def box_model(spec: PolicySpec, weights: np.ndarray, log_std: Sequence[float]) -> bytes:
    """mean = observation @ weights (inputs, size), log_std as given, and the greedy action."""
    space, squash = spec.action, spec.distribution == Distribution.TANH_GAUSSIAN
    assert isinstance(space, Box)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(space.dtype))
    numbers = {
        "weights": weights,
        "spread": np.array(log_std)[None],
        "half": space.half,
        "centre": space.centre,
        "lower": space.lower,
        "upper": space.upper,
        "none": np.zeros((1, 1)),
    }
    nodes = [
        helper.make_node("MatMul", ["observation", "weights"], ["mean"]),
        helper.make_node("MatMul", ["observation", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "spread"], ["log_std"]),
        helper.make_node("Tanh" if squash else "Identity", ["mean"], ["point"]),
        helper.make_node("Mul", ["point", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "centre"], ["moved"]),
        helper.make_node("Max", ["moved", "lower"], ["above"]),
        helper.make_node("Min", ["above", "upper"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["cast"], to=kind),
        helper.make_node("Reshape", ["cast", "shape"], ["action"]),
    ]
    constants = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in numbers.items()]
    nothing = np.zeros_like(weights, np.float32)
    constants.append(numpy_helper.from_array(nothing, "nothing"))
    constants.append(numpy_helper.from_array(np.array([-1, *space.shape]), "shape"))
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", space.size])
        for name in spec.outputs
    ]
    outputs.append(helper.make_tensor_value_info("action", kind, ["batch", *space.shape]))
    seen = ["batch", *spec.observation.shape]
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, seen)],
        outputs,
        constants,
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return bytes(model.SerializeToString())


def components_model(spec: PolicySpec, weights: np.ndarray) -> bytes:
    """logits = observation @ weights, and the index of each component's greatest."""
    space = spec.action
    assert isinstance(space, MultiDiscrete)
    lengths = numpy_helper.from_array(np.array(space.nvec), "lengths")
    parts = [f"part{i}" for i in range(space.size)]
    nodes = [
        helper.make_node("MatMul", ["observation", "weights"], ["logits"]),
        helper.make_node("Split", ["logits", "lengths"], parts, axis=1),
        *(helper.make_node("ArgMax", [p], [f"best of {p}"], axis=1, keepdims=1) for p in parts),
        helper.make_node("Concat", [f"best of {p}" for p in parts], ["action"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "policy",
        [
            helper.make_tensor_value_info(
                "observation", TensorProto.FLOAT, ["batch", *spec.observation.shape]
            )
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", space.choices]),
            helper.make_tensor_value_info("action", TensorProto.INT64, ["batch", space.size]),
        ],
        [numpy_helper.from_array(weights.astype(np.float32), "weights"), lengths],
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return bytes(model.SerializeToString())


def build(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    *,
    observation: tuple[str, Sequence[int]] = ("float32", (4,)),
    actions: int = 2,
    output: str = "q_values",
    opsets: Sequence[onnx.OperatorSetIdProto] = (),
) -> bytes:
    """A model of these nodes with the platform's signature."""
    dtype, shape = observation
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", _ELEMENTS[dtype], ["batch", *shape])],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", actions]),
            helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"]),
        ],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), *opsets], ir_version=10
    )
    return bytes(model.SerializeToString())


def random_layers(sizes: Sequence[int], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of a network with these layer widths."""
    generator = np.random.default_rng(seed)
    return [
        (
            (generator.normal(size=(m, n)) / np.sqrt(m)).astype(np.float32),
            generator.normal(size=n).astype(np.float32),
        )
        for m, n in itertools.pairwise(sizes)
    ]


def publish(
    registry: PolicyRegistry,
    model: bytes,
    *,
    policy: str = "cartpole",
    spec: PolicySpec = CARTPOLE,
    alias: str | None = "stable",
    observations: ObservationStatistics | None = None,
) -> int:
    """Publish a version and point an alias at it."""

    def describe(version: int, digest: str) -> PolicyManifest:
        return PolicyManifest(
            policy=policy,
            version=version,
            spec=spec,
            algorithm="dqn",
            run_id=f"test-{version}",
            env_steps=1000 * version,
            evaluation=Evaluation(episodes=10, mean_return=475, min_return=400, max_return=500),
            observations=observations,
            sha256=digest,
            published_at=datetime.now(UTC),
        )

    version = registry.publish(policy, model, describe).version
    if alias is not None:
        registry.set_alias(policy, alias, version)
    return version
