"""Loading a model: what is refused and why, and that rows do not depend on their batch."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_policies import (
    CARTPOLE,
    WEIGHTS,
    build,
    dense_model,
    linear_model,
    random_layers,
)

from services.common.action_space import Discrete
from services.common.errors import InvalidInput, ModelRejected
from services.common.spec import Distribution, ObservationSpace, PolicySpec
from services.inference.runner import PolicyRunner

ARGMAX = helper.make_node("ArgMax", ["q_values"], ["action"], axis=1, keepdims=0)
W = numpy_helper.from_array(WEIGHTS, "w")


THREE = Discrete(n=3)


def spec_like(**changes: object) -> PolicySpec:
    return CARTPOLE.model_copy(update=changes)


def test_runs_the_model() -> None:
    observations = np.array([[0, 0, 1, 0], [0, 0, -1, 2]], dtype=np.float32)

    parameters = PolicyRunner(linear_model((0.5, 0.0)), CARTPOLE).run(observations)

    assert parameters.tolist() == [[0.5, 3.0], [0.5, -1.0]]


def test_images_are_taken_as_bytes() -> None:
    space = ObservationSpace(dtype="uint8", shape=(3, 2, 2))
    model = dense_model(random_layers([12, 4]), dtype="uint8", shape=[3, 2, 2])
    runner = PolicyRunner(model, spec_like(observation=space, action=Discrete(n=4)))

    assert runner.run(np.full((5, 3, 2, 2), 255, dtype=np.uint8)).shape == (5, 4)


@pytest.mark.parametrize(
    ("model", "spec", "reason"),
    [
        (b"not a model", CARTPOLE, "not an ONNX file"),
        (b"", CARTPOLE, "no graph"),
        (linear_model()[:-40], CARTPOLE, "not an ONNX file, or a part of one"),
        (
            linear_model(),
            spec_like(observation=ObservationSpace(dtype="float32", shape=(6,))),
            r"'observation' is tensor\(float\) of shape \['batch', 4\], .* \['batch', 6\]",
        ),
        (
            linear_model(),
            spec_like(observation=ObservationSpace(dtype="uint8", shape=(4,))),
            r"the spec expects tensor\(uint8\)",
        ),
        (
            linear_model(),
            spec_like(action=Discrete(n=3)),
            r"'q_values' .* expects .* \['batch', 3\]",
        ),
        (linear_model(), spec_like(distribution=Distribution.LOGITS), "no output 'logits'"),
        (linear_model((np.nan, 0.0)), CARTPOLE, "not finite"),
    ],
)
def test_what_does_not_fit_its_spec_is_refused(model: bytes, spec: PolicySpec, reason: str) -> None:
    with pytest.raises(ModelRejected, match=reason):
        PolicyRunner(model, spec)


def test_an_action_that_is_not_the_greedy_one_is_refused() -> None:
    argmin = helper.make_node("ArgMin", ["q_values"], ["action"], axis=1, keepdims=0)
    nodes = [helper.make_node("MatMul", ["observation", "w"], ["q_values"]), argmin]

    with pytest.raises(ModelRejected, match="'action' is not the index of the greatest"):
        PolicyRunner(build(nodes, [W]), CARTPOLE)


def test_an_output_without_the_batch_axis_it_declares_is_refused() -> None:
    nodes = [
        helper.make_node("MatMul", ["observation", "w"], ["all"]),
        helper.make_node("Constant", [], ["first"], value_ints=[0]),
        helper.make_node("Gather", ["all", "first"], ["q_values"], axis=0),
        ARGMAX,
    ]

    with pytest.raises(ModelRejected, match=r"'q_values' is .* of shape \[1, 2\]"):
        PolicyRunner(build(nodes, [W]), CARTPOLE)


def test_weights_in_another_file_are_refused() -> None:
    outside = numpy_helper.from_array(WEIGHTS, "w")
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="/etc/hostname")
    nodes = [helper.make_node("MatMul", ["observation", "w"], ["q_values"]), ARGMAX]

    with pytest.raises(ModelRejected, match="'w' is stored in another file"):
        PolicyRunner(build(nodes, [outside]), CARTPOLE)


def test_operators_of_other_domains_are_refused() -> None:
    own = helper.make_node("MatMul", ["observation", "w"], ["q_values"], domain="com.evil")
    model = build([own, ARGMAX], [W], opsets=[helper.make_opsetid("com.evil", 1)])

    with pytest.raises(ModelRejected, match=r"MatMul is of domain 'com\.evil'"):
        PolicyRunner(model, CARTPOLE)


def test_a_model_that_fails_on_an_observation_blames_the_observation() -> None:
    space = ObservationSpace(dtype="int64", shape=(1,))
    table = numpy_helper.from_array(np.eye(3, dtype=np.float32)[:, :2].copy(), "table")
    nodes = [
        helper.make_node("Flatten", ["observation"], ["index"], axis=0),
        helper.make_node("Constant", [], ["flat"], value_ints=[-1]),
        helper.make_node("Reshape", ["index", "flat"], ["rows"]),
        helper.make_node("Gather", ["table", "rows"], ["q_values"]),
        ARGMAX,
    ]
    model = build(nodes, [table], observation=("int64", (1,)))
    runner = PolicyRunner(model, spec_like(observation=space))

    assert runner.run(np.array([[1]])).tolist() == [[0.0, 1.0]]
    with pytest.raises(InvalidInput, match="fails on this observation"):
        runner.run(np.array([[7]]))
    with pytest.raises(InvalidInput, match="not finite"):
        PolicyRunner(linear_model(), CARTPOLE).run(np.full((1, 4), 3e38, dtype=np.float32))


def test_a_mask_input_is_fed() -> None:
    nodes = [
        helper.make_node("MatMul", ["observation", "w"], ["q"]),
        helper.make_node("Constant", [], ["never"], value_float=-1e9),
        helper.make_node("Where", ["action_mask", "q", "never"], ["q_values"]),
        ARGMAX,
    ]
    graph = build(nodes, [W])
    model = helper.onnx.load_model_from_string(graph)
    model.graph.input.append(
        helper.make_tensor_value_info("action_mask", TensorProto.BOOL, ["batch", 2])
    )
    runner = PolicyRunner(model.SerializeToString(), CARTPOLE)
    observation = np.ones((1, 4), dtype=np.float32)

    assert runner.run(observation)[0, 1] == pytest.approx(4.3)
    assert runner.run(observation, np.array([[True, False]]))[0, 1] == -1e9


@pytest.mark.parametrize("sizes", [[4, 2], [4, 64, 64, 2], [5, 300, 7], [128, 256, 18]])
def test_a_row_has_the_same_bits_in_every_batch(sizes: list[int]) -> None:
    spec = spec_like(
        observation=ObservationSpace(dtype="float32", shape=(sizes[0],)),
        action=Discrete(n=sizes[-1]),
    )
    runner = PolicyRunner(dense_model(random_layers(sizes)), spec)
    observations = np.random.default_rng(1).normal(size=(200, sizes[0])).astype(np.float32)
    alone = np.concatenate([runner.run(row[None]) for row in observations])

    for size in (1, 2, 3, 5, 8, 21, 64, 65, 150, 200):
        assert runner.run(observations[:size]).tobytes() == alone[:size].tobytes()
        assert runner.run(observations[-size:]).tobytes() == alone[-size:].tobytes()


class TestUnsteadyModels:
    """Models whose rows depend on their batch, made so on purpose."""

    def make(self, unsteady_below: int) -> PolicyRunner:
        """q grows by 1 where the batch has fewer rows than so many."""
        nodes = [
            helper.make_node("MatMul", ["observation", "w"], ["plain"]),
            helper.make_node("Shape", ["observation"], ["rows"], start=0, end=1),
            helper.make_node("Constant", [], ["limit"], value_ints=[unsteady_below]),
            helper.make_node("Less", ["rows", "limit"], ["small"]),
            helper.make_node("Cast", ["small"], ["extra"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["plain", "extra"], ["q_values"]),
            ARGMAX,
        ]
        return PolicyRunner(build(nodes, [W]), CARTPOLE)

    def test_small_batches_are_padded(self) -> None:
        runner = self.make(unsteady_below=3)

        assert runner.min_rows == 3
        assert runner.max_rows in (64, 256)  # by how quick it was here
        for rows in (1, 2, 3, 64, 65, 130):
            parameters = runner.run(np.zeros((rows, 4), dtype=np.float32))
            assert parameters.tolist() == [[0.0, 0.0]] * rows

    def test_what_cannot_be_padded_runs_row_by_row(self) -> None:
        runner = self.make(unsteady_below=33)

        assert (runner.min_rows, runner.max_rows) == (1, 1)
        parameters = runner.run(np.zeros((70, 4), dtype=np.float32))
        assert parameters.tolist() == [[1.0, 1.0]] * 70


def test_a_quick_model_runs_more_rows_at_once_and_gives_each_what_it_gives_it_alone() -> None:
    runner = PolicyRunner(dense_model(random_layers([4, 64, 64, 2])), CARTPOLE, max_batch=16)
    rows = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)

    assert runner.max_rows in (16, 64)  # by how quick it was here, and by its kernels
    alone = np.concatenate([runner.run(rows[i : i + 1]) for i in range(len(rows))])
    assert np.array_equal(runner.run(rows), alone)
