"""Hostile model files: refused with a reason, while the process that asks goes on."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from hostile_models import growing, numbers, policy
from onnx import TensorProto, helper, numpy_helper
from tiny_policies import (
    CARTPOLE,
    dense_model,
    linear_model,
    publish,
    random_layers,
)

from services.common.errors import ModelRejected, Unavailable
from services.common.registry import PolicyRegistry
from services.inference.operators import MIB, ModelLimits
from services.inference.runner import PolicyRunner
from services.inference.trials import TrialLimits, Trials


def trials(
    memory_mib: int = 512, processor_s: int = 5, limits: ModelLimits | None = None
) -> Trials:
    return Trials(
        TrialLimits(memory_mib * MIB, processor_s),
        limits or ModelLimits(),
        max_batch=64,
        intra_op_threads=1,
    )


@pytest.fixture(scope="module")
def tried() -> Iterator[Trials]:
    made = trials()
    yield made
    made.close()


def test_a_sound_model_passes_with_what_it_takes(tried: Trials) -> None:
    large = dense_model(random_layers([4, 1024, 1024, 2]))
    found = tried.run(large, CARTPOLE)
    assert len(large) <= found.bytes < 20 * len(large)
    again = PolicyRunner(large, CARTPOLE, tried=found)
    assert (again.min_rows, again.max_rows) == (found.min_rows, found.max_rows)
    assert again.min_rows == PolicyRunner(large, CARTPOLE).min_rows
    assert again.bytes == found.bytes
    assert tried.run(growing(100), CARTPOLE).min_rows >= 1


def test_a_model_that_asks_for_too_much_memory_is_refused(tried: Trials) -> None:
    with pytest.raises(ModelRejected, match=r"(?i)alloc|memory"):
        tried.run(growing(100 * MIB), CARTPOLE)
    folded = policy(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            helper.make_node("Add", ["observation", "sum"], ["x"]),
        ],
        numbers("shape", [1 << 33]),
    )
    with pytest.raises(ModelRejected, match=r"(?i)alloc|memory"):
        tried.run(folded, CARTPOLE)
    assert tried.run(linear_model(), CARTPOLE).max_rows >= 64


def slow_model() -> bytes:
    square = np.eye(1500, dtype=np.float32)
    chain = ["x0", *(f"x{i + 1}" for i in range(3000))]
    return policy(
        [
            helper.make_node("MatMul", ["observation", "in"], ["x0"]),
            *(helper.make_node("MatMul", [a, "square"], [b]) for a, b in itertools.pairwise(chain)),
            helper.make_node("MatMul", [chain[-1], "out"], ["x"]),
        ],
        numpy_helper.from_array(np.zeros((4, 1500), np.float32), "in"),
        numpy_helper.from_array(np.zeros((1500, 4), np.float32), "out"),
        numpy_helper.from_array(square, "square"),
    )


def test_a_model_that_takes_too_long_is_refused() -> None:
    hurried = trials(processor_s=1)
    with pytest.raises(ModelRejected, match="more processor time or memory"):
        hurried.run(slow_model(), CARTPOLE)
    assert hurried.run(linear_model(), CARTPOLE).max_rows >= 64
    hurried.close()


def test_a_verdict_stays(tried: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelRejected, match="not an ONNX file") as first:
        tried.run(b"no model", CARTPOLE)
    monkeypatch.setattr(tried, "_ask", lambda *_: pytest.fail("tried again"))
    with pytest.raises(ModelRejected) as second:
        tried.run(b"no model", CARTPOLE)
    assert str(first.value) == str(second.value)


def test_a_helper_that_ended_is_started_again() -> None:
    made = trials()
    assert made.run(linear_model(), CARTPOLE)
    assert made._process is not None
    made._process.send_signal(signal.SIGKILL)
    made._process.wait()
    with pytest.raises(Unavailable, match="another will be started"):
        made.run(linear_model(), CARTPOLE)
    assert made.run(linear_model(), CARTPOLE)
    made.close()


def test_a_trial_under_way_ends_with_who_asks() -> None:
    made = trials(processor_s=60)
    assert made.run(linear_model(), CARTPOLE)
    assert made._process is not None
    helper = psutil.Process(made._process.pid)
    outcome: list[Exception] = []

    def ask() -> None:
        try:
            made.run(slow_model(), CARTPOLE)
        except Unavailable as error:
            outcome.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while not (trying := helper.children()):
        time.sleep(0.01)
    made.close()
    asking.join(20)
    assert outcome
    psutil.wait_procs(trying, timeout=20)
    assert not any(child.is_running() and child.status() != "zombie" for child in trying)


def test_a_forked_helper_ends_with_who_asks() -> None:
    asking, said = os.pipe()
    child = os.fork()
    if child == 0:
        made = trials()
        made.fork()
        os.write(said, b"1" if made.run(linear_model(), CARTPOLE).max_rows >= 64 else b"0")
        os._exit(0)
    os.close(said)
    with open(asking, "rb") as answers:
        assert answers.read() == b"1"  # which comes to its end when nobody can write any more
    os.waitpid(child, 0)


LOOP = helper.make_node(
    "Loop",
    ["", "", "observation"],
    ["x"],
    body=helper.make_graph(
        [helper.make_node("Identity", ["v"], ["w"]), helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["batch", 4]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, ["batch", 4]),
        ],
    ),
)
ROUND = [
    helper.make_node("ReduceMax", ["observation"], ["most"], keepdims=0),
    helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([LOOP], "operator 'Loop' is not one that is served"),
        ([helper.make_node("NonZero", ["observation"], ["x"])], "operator 'NonZero'"),
        (
            [
                *ROUND,
                helper.make_node("Range", ["zero", "count", "one"], ["many"]),
                helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
                helper.make_node("Cast", ["sum"], ["added"], to=TensorProto.FLOAT),
                helper.make_node("Add", ["observation", "added"], ["x"]),
            ],
            "operator Range .* makes what an observation says",
        ),
        (
            [
                *ROUND,
                helper.make_node("Reshape", ["count", "one1"], ["stop"]),
                helper.make_node("Slice", ["observation", "zeros1", "stop"], ["cut"]),
                helper.make_node("Shape", ["cut"], ["whole"]),
                helper.make_node("Expand", ["observation", "whole"], ["x"]),
            ][::-1],  # in an order that ONNX Runtime mends
            "operator Slice .* makes what an observation says",
        ),
    ],
)
def test_what_may_ask_for_anything_is_refused(
    tried: Trials, nodes: list[onnx.NodeProto], why: str
) -> None:
    constants = [
        numpy_helper.from_array(np.array(0), "zero"),
        numpy_helper.from_array(np.array(1), "one"),
        numbers("zeros1", [0]),
        numbers("one1", [1]),
    ]
    with pytest.raises(ModelRejected, match=why):
        tried.run(policy(nodes, *constants), CARTPOLE)


def test_tensors_and_functions_that_unfold_are_refused(tried: Trials) -> None:
    parsed = onnx.load_model_from_string(linear_model())
    sparse = parsed.graph.sparse_initializer.add()
    sparse.values.name = "huge"
    sparse.dims.extend([1 << 40])
    with pytest.raises(ModelRejected, match="sparse tensor"):
        tried.run(parsed.SerializeToString(), CARTPOLE)

    parsed = onnx.load_model_from_string(linear_model())
    parsed.graph.initializer.add(name="huge", dims=[1 << 40], data_type=TensorProto.FLOAT)
    with pytest.raises(ModelRejected, match=r"tensors take .* bytes, the limit is"):
        tried.run(parsed.SerializeToString(), CARTPOLE)

    parsed = onnx.load_model_from_string(linear_model())
    parsed.functions.add(name="Mine", domain="mine")
    with pytest.raises(ModelRejected, match="function 'Mine' is defined in the model"):
        tried.run(parsed.SerializeToString(), CARTPOLE)


def test_limits_of_size_and_the_operators_are_settings() -> None:
    strict = trials(limits=ModelLimits(bytes=2000, nodes=3, operators=frozenset({"NonZero"})))
    with pytest.raises(ModelRejected, match="bytes, the limit is 2000"):
        strict.run(dense_model(random_layers([4, 64, 2])), CARTPOLE)
    with pytest.raises(ModelRejected, match="operators, the limit is 3"):
        strict.run(dense_model(random_layers([4, 2, 2, 2])), CARTPOLE)
    more = policy(
        [
            helper.make_node("NonZero", ["observation"], ["found"]),
            helper.make_node("Identity", ["observation"], ["x"]),
        ]
    )
    with pytest.raises(ModelRejected, match="operators, the limit is 3"):
        strict.run(more, CARTPOLE)
    strict.close()
    open_minded = trials(limits=ModelLimits(operators=frozenset({"NonZero"})))
    assert open_minded.run(more, CARTPOLE)
    open_minded.close()


def test_a_file_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    registry = PolicyRegistry(str(tmp_path))
    publish(registry, linear_model())
    assert registry.load("cartpole", 1, most_bytes=10_000).model == linear_model()
    with pytest.raises(ModelRejected, match="more than 100 bytes"):
        registry.load("cartpole", 1, most_bytes=100)
