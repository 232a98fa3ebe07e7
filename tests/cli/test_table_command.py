"""`tutelage table` and `act` against the real inference service, with a table published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from inference_process import InferenceProcess
from onnx import helper, numpy_helper
from tiny_policies import CARTPOLE, build, linear_model, publish

from services.cli import main
from services.common.registry import PolicyRegistry
from services.common.spec import ObservationSpace
from tutelage.errors import InvalidInput
from tutelage.v1 import array_pb2, policy_pb2, policy_pb2_grpc

VALUES = np.array([[0.5, 0.25], [1.0, 2.0], [0.0, 0.0]], np.float32)


def table_model() -> bytes:
    nodes = [
        helper.make_node("Gather", ["table", "observation"], ["q_values"]),
        helper.make_node("ArgMax", ["q_values"], ["action"], axis=1, keepdims=0),
    ]
    return build(nodes, [numpy_helper.from_array(VALUES, "table")], observation=("int64", ()))


@pytest.fixture(autouse=True)
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InferenceProcess]:
    registry = PolicyRegistry(str(tmp_path / "policies"))
    states = ObservationSpace(dtype="int64", shape=(), n=3)
    spec = CARTPOLE.model_copy(update={"environment": "Steps-v0", "observation": states})
    publish(registry, table_model(), policy="steps", spec=spec)
    publish(registry, linear_model())
    process = InferenceProcess(tmp_path / "policies", tmp_path / "inference.log")
    monkeypatch.setenv("TUTELAGE_INFERENCE_ADDRESS", process.address)
    yield process
    process.stop()


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_every_state_is_shown_and_the_best_action_starred() -> None:
    code, output = call("table", "steps")
    assert code == 0, output
    title, headings, *rows = (line.split() for line in output.splitlines())
    assert title == ["steps,", "version", "1:", "Steps-v0"]
    assert headings == ["state", "left", "right"]
    assert rows == [
        ["0", "0.500*", "0.250"],
        ["1", "1.000", "2.000*"],
        ["2", "0.000", "0.000"],  # nothing is best where all is equal
    ]


def test_some_states_can_be_shown() -> None:
    code, output = call("table", "steps", "--first", "1", "--count", "1")
    assert code == 0, output
    assert [line.split()[0] for line in output.splitlines()[2:]] == ["1"]
    assert "states go from 0 to 2" in call("table", "steps", "--first", "3")[1]


def test_a_policy_without_countable_states_has_no_table() -> None:
    code, output = call("table", "cartpole")
    assert code == 1
    assert "the states of CartPole-v1 cannot be counted" in output


def test_one_state_is_asked_for_by_its_number() -> None:
    assert call("act", "1", "--policy", "steps")[1].split()[:3] == ["action", "1", "(right)"]
    for number, message in (
        ("3", "observation 0 is 3, expected a whole number from 0 to 2"),
        ("-1", "observation 0 is -1, expected a whole number from 0 to 2"),
        ("0.5", "expected whole numbers"),
    ):
        code, output = call("act", "--policy", "steps", number)
        assert (code, message in output) == (1, True), output


def test_numbers_of_states_are_checked_in_raw_bytes_too(served: InferenceProcess) -> None:
    with pytest.raises(InvalidInput, match="observation 1 is 7, expected a whole number"):
        served.client.act_batch([1, 7], policy="steps")
    raw = array_pb2.Array(raw=np.array(9, "<i8").tobytes(), dtype=array_pb2.DTYPE_INT64)
    request = policy_pb2.ActRequest(policy="steps", observation=raw)
    with (
        grpc.insecure_channel(served.address) as channel,
        pytest.raises(grpc.RpcError, match="observation 0 is 9"),
    ):
        policy_pb2_grpc.PolicyServiceStub(channel).Act(request, timeout=10)
