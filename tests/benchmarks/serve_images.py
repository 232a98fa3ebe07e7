"""A large model: the network of Mnih et al. (2015) on four frames of 84 by 84.

Its own time is what onnxruntime takes for the batch in a process that does nothing else.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from serve_load import Target, framed, load
from tiny_policies import CARTPOLE, build

from services.common.action_space import Discrete
from services.common.spec import ObservationSpace, PolicySpec
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1.array_pb2 import DTYPE_UINT8, Array

POLICY = "frames"
SHAPE = (4, 84, 84)
ACTIONS = 6
BATCHES = (1, 32)
CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels, kernel, stride
HIDDEN = 512
ASKED = 1.2  # times onnxruntime's own time
RUNS = 10

Report = dict[str, float]


def spec() -> PolicySpec:
    """What it takes and gives."""
    space = ObservationSpace(dtype="uint8", shape=SHAPE)
    return CARTPOLE.model_copy(update={"observation": space, "action": Discrete(n=ACTIONS)})


def nature_cnn(seed: int = 0) -> bytes:
    """The network with random weights, as a model of the platform's signature."""
    network = _Network(seed)
    x = network.add("Cast", ["observation"], to=TensorProto.FLOAT)
    x = network.add("Div", [x, network.constant(np.array(255, np.float32))])
    channels = SHAPE[0]
    for out, kernel, stride in CONVOLUTIONS:
        weights = network.weights(out, channels, kernel, kernel)
        x = network.add("Relu", [network.add("Conv", [x, *weights], strides=[stride, stride])])
        channels = out
    x = network.add("Flatten", [x], axis=1)
    x = network.add("Gemm", [x, *network.weights(HIDDEN, channels * 7 * 7)], transB=1)
    x = network.add("Relu", [x])
    weights = network.weights(ACTIONS, HIDDEN)
    network.add("Gemm", [x, *weights], output="q_values", transB=1)
    network.add("ArgMax", ["q_values"], output="action", axis=1, keepdims=0)
    return build(network.nodes, network.constants, observation=("uint8", SHAPE), actions=ACTIONS)


class _Network:
    """Nodes and constants of a model, each named when it is added."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], *, output: str = "", **options: Any) -> str:
        """Add a node; the name of its output."""
        output = output or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **options))
        return output

    def constant(self, values: np.ndarray) -> str:
        """Add a constant; its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def weights(self, *shape: int) -> tuple[str, str]:
        """Random weights, and biases of a layer with as many outputs as the first length."""
        scale = float(np.prod(shape[1:])) ** -0.5
        drawn = self._generator.normal(size=shape, scale=scale)
        return self.constant(drawn), self.constant(np.zeros(shape[0]))


def image_targets(folder: Path, server: Target) -> dict[int, Target]:
    """The same server, asked for batches of images with ActBatch; by their sizes."""
    path = "/tutelage.v1.PolicyService/ActBatch"
    targets = {}
    for rows in BATCHES:
        array = Array(raw=_images(rows).tobytes(), dtype=DTYPE_UINT8, shape=(rows, *SHAPE))
        request = pb.ActBatchRequest(policy=POLICY, observations=array)
        body = framed(folder, f"images-{rows}", request.SerializeToString())
        targets[rows] = Target(f"{rows} images", server.address, path, body, server.process)
    return targets


def measure_images(targets: dict[int, Target], model: bytes, rounds: int) -> dict[int, Report]:
    """Medians of the rounds, by size: ms a batch over one connection, onnxruntime's own ms."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    seen: dict[int, list[tuple[float, float]]] = {rows: [] for rows in targets}
    for _ in range(rounds):
        for rows, target in targets.items():
            own_ms = _own_ms(session, _images(rows))
            served_ms = load(target, 1, 3)["mean_us"] / 1000
            # Before and after, so that a machine that gets slower favours neither.
            seen[rows].append((served_ms, (own_ms + _own_ms(session, _images(rows))) / 2))
    return {
        rows: {
            "served_ms": statistics.median(served for served, _ in pairs),
            "onnxruntime_ms": statistics.median(own for _, own in pairs),
            "times": statistics.median(served / own for served, own in pairs),
        }
        for rows, pairs in seen.items()
    }


def show_images(report: dict[int, Report]) -> None:
    """Print the figures beside what is asked."""
    print("\nNature-CNN on 84x84x4, ms a batch over one connection")
    for rows, figures in report.items():
        print(
            f"{rows:>4} images: {figures['served_ms']:.2f}, onnxruntime alone "
            f"{figures['onnxruntime_ms']:.2f}, {figures['times']:.2f} times (asked: ≤ {ASKED:g})"
        )


def _images(rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, *SHAPE), dtype=np.uint8)


def _own_ms(session: ort.InferenceSession, images: np.ndarray) -> float:
    session.run(None, {"observation": images})
    took = []
    for _ in range(RUNS):
        started = time.perf_counter()
        session.run(None, {"observation": images})
        took.append(time.perf_counter() - started)
    return 1000 * statistics.median(took)
