"""Whatever a Triton client sends, it is told what is wrong with it, and never INTERNAL."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from inference_process import InferenceProcess
from tiny_policies import linear_model, publish
from transports import TRANSPORTS

from services.common.registry import PolicyRegistry
from tutelage.oip.v2 import inference_pb2 as pb

FINE = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
Call = Callable[[str, bytes], grpc.StatusCode]

numbers = st.floats(width=32) | st.just(0.0)
int64s = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5)
names = st.sampled_from(["observation", "action_mask", "action", "q_values"]) | st.text(max_size=9)
values = st.one_of(
    st.builds(pb.InferParameter, bool_param=st.booleans()),
    st.builds(pb.InferParameter, int64_param=int64s),
    st.builds(pb.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
    st.builds(pb.InferParameter, double_param=st.floats()),
    st.builds(
        pb.InferParameter,
        string_param=st.sampled_from(["sample", "greedy", "epsilon_greedy"]) | st.text(max_size=9),
    ),
    st.just(pb.InferParameter()),
)
known = st.sampled_from(
    ["selection", "seed", "temperature", "epsilon", "sequence_id", "triton_x", "timeout"]
)
parameters = st.dictionaries(known | st.text(max_size=9), values, max_size=3)
contents = st.none() | st.builds(
    pb.InferTensorContents,
    fp32_contents=st.just([0.0] * 4) | st.lists(numbers, max_size=9),
    bool_contents=st.lists(st.booleans(), max_size=3),
    uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=2),
)
shapes = st.sampled_from([[1, 4], [2, 4], [1, 2], [4], []]) | st.lists(int64s, max_size=4)
tensors = st.builds(
    pb.InferInputTensor,
    name=names,
    datatype=st.sampled_from(["FP32", "FP64", "BOOL", "BYTES", ""]) | st.text(max_size=5),
    shape=shapes,
    contents=contents,
    parameters=st.just({}) | parameters,
)
fitting = st.builds(
    pb.InferInputTensor,
    name=st.just("observation"),
    datatype=st.just("FP32"),
    shape=shapes,
    contents=contents,
)
requests = st.builds(
    pb.ModelInferRequest,
    model_name=st.sampled_from(["", "cartpole", ".."]) | st.text(max_size=9),
    model_version=st.sampled_from(["", "1", "stable", "0", "-1", "9" * 40]) | st.text(max_size=9),
    id=st.text(max_size=9),
    parameters=st.just({}) | parameters,
    inputs=st.lists(fitting, min_size=1, max_size=1) | st.lists(tensors, max_size=3),
    outputs=st.lists(
        st.builds(pb.InferRequestedOutputTensor, name=names, parameters=st.just({}) | parameters),
        max_size=3,
    ),
    raw_input_contents=st.just([])
    | st.lists(st.binary(max_size=40) | st.just(bytes(16)), max_size=3),
)


@pytest.fixture(scope="module", params=TRANSPORTS)
def call(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Call]:
    folder = tmp_path_factory.mktemp("fuzz")
    publish(PolicyRegistry(str(folder / "policies")), linear_model())
    process = InferenceProcess(
        folder / "policies", folder / "log", inference_transport=request.param
    )
    with grpc.insecure_channel(process.address) as channel:

        def status(method: str, content: bytes) -> grpc.StatusCode:
            try:
                channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(
                    content, timeout=20
                )
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        yield status
    assert process.stop() == 0
    assert process.records("call failed") == []


fuzzed = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FITS = pb.InferInputTensor(name="observation", datatype="FP32", shape=[1, 4])


@fuzzed
@given(request=requests)
@example(pb.ModelInferRequest(inputs=[FITS], raw_input_contents=[bytes(16)]))
@example(pb.ModelInferRequest(inputs=[FITS], raw_input_contents=[bytes(15)]))
def test_infer_takes_any_field_values(call: Call, request: pb.ModelInferRequest) -> None:
    assert call("ModelInfer", request.SerializeToString()) in FINE


@fuzzed
@given(content=st.binary(max_size=64))
@pytest.mark.parametrize(
    "method",
    [
        "ServerMetadata",
        "ModelReady",
        "ModelMetadata",
        "ModelConfig",
        "ModelInfer",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
    ],
)
def test_any_bytes_are_answered(call: Call, method: str, content: bytes) -> None:
    assert call(method, content) in FINE


@fuzzed
@given(
    name=st.sampled_from(["", "cartpole", ".."]) | st.text(max_size=9),
    version=st.sampled_from(["", "1", "stable", "0", "9" * 40, "²"]) | st.text(max_size=9),
)
def test_any_model_may_be_asked_for(call: Call, name: str, version: str) -> None:
    for method, kind in (
        ("ModelReady", pb.ModelReadyRequest),
        ("ModelMetadata", pb.ModelMetadataRequest),
        ("ModelConfig", pb.ModelConfigRequest),
    ):
        content = kind(name=name, version=version).SerializeToString()
        assert call(method, content) in FINE
