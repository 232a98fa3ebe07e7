"""Whatever bytes arrive, the service answers with a status that blames the right side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from inference_process import InferenceProcess
from recurrent_policies import CUE, cue_model
from tiny_policies import linear_model, publish
from transports import TRANSPORTS

from services.common.embedded_redis import EmbeddedRedis
from services.common.registry import PolicyRegistry
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1.array_pb2 import Array

FINE = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
Call = Callable[[str, bytes], grpc.StatusCode]
Stream = Callable[[Sequence[bytes]], grpc.StatusCode]

numbers = st.floats(width=64) | st.sampled_from([0.0, 1.0, 1e38, -1e38, 3.4e38, 1e300, 5e-324])
int64s = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5)
arrays = st.builds(
    Array,
    values=st.lists(numbers, max_size=9)
    | st.lists(numbers, min_size=4, max_size=4)
    | st.lists(numbers, min_size=2, max_size=2),
    raw=st.binary(max_size=20) | st.binary(min_size=16, max_size=16) | st.just(b""),
    dtype=st.integers(-1, 8),
    shape=st.just([]) | st.lists(int64s, max_size=4),
)
common = {
    "policy": st.sampled_from(["", "cartpole", "cue", "..", "cartpole/1"]) | st.text(max_size=9),
    "version": st.just(0) | int64s,
    "alias": st.sampled_from(["", "stable"]) | st.text(max_size=9),
    "selection": st.integers(-1, 3),
    "seed": st.none() | st.integers(0, 2**64 - 1),
    "temperature": st.none() | numbers,
    "include_probabilities": st.booleans(),
    "epsilon": st.none() | numbers,
    "session": st.text(max_size=9),
    "carry_state": st.booleans(),
    "recurrent_state": st.just(b"") | st.binary(max_size=80),
}
masks = st.lists(st.booleans(), max_size=5)
decisions = st.sampled_from(["", "0" * 16 + ".cartpole", "0" * 16 + ".other", "."]) | st.text()
acts = st.builds(
    pb.ActRequest,
    observation=arrays,
    action_mask=masks,
    include_value=st.booleans(),
    episode_start=st.booleans(),
    track=st.booleans(),
    previous_decision_id=decisions,
    **common,
)
batches = st.builds(
    pb.ActBatchRequest,
    observations=arrays,
    action_masks=masks,
    include_values=st.booleans(),
    episode_starts=st.lists(st.booleans(), max_size=3),
    **common,
)
reports = st.builds(
    pb.ReportOutcomeRequest,
    decision_id=decisions,
    reward=numbers,
    terminated=st.booleans(),
    truncated=st.booleans(),
    next_observation=st.none() | arrays,
    next_action_mask=masks,
)
names = st.builds(pb.GetPolicyRequest, policy=common["policy"])
aliases = st.builds(
    pb.SetAliasRequest,
    policy=common["policy"],
    alias=common["alias"] | st.sampled_from(["canary", "shadow"]),
    version=int64s,
    share=st.none() | numbers,
)


@pytest.fixture(scope="module", params=TRANSPORTS)
def calls(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Call, Stream]]:
    folder = tmp_path_factory.mktemp("fuzz")
    registry = PolicyRegistry(str(folder / "policies"))
    publish(registry, linear_model())
    publish(registry, cue_model(), policy="cue", spec=CUE)
    with EmbeddedRedis(folder / "valkey") as server:
        process = InferenceProcess(
            folder / "policies",
            folder / "log",
            inference_transport=request.param,
            inference_track_timeout_ms=5000,
            redis_url=server.url,
        )
        yield from _calling(process)
        assert process.stop() == 0
    assert process.records("call failed") == []
    assert process.records("failed on what came together") == []


@pytest.fixture
def call(calls: tuple[Call, Stream]) -> Call:
    return calls[0]


@pytest.fixture
def stream(calls: tuple[Call, Stream]) -> Stream:
    return calls[1]


def _calling(process: InferenceProcess) -> Iterator[tuple[Call, Stream]]:
    with grpc.insecure_channel(process.address) as channel:

        def status(method: str, content: bytes) -> grpc.StatusCode:
            try:
                channel.unary_unary(f"/tutelage.v1.PolicyService/{method}")(content, timeout=20)
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        def stream_status(contents: Sequence[bytes]) -> grpc.StatusCode:
            method = channel.stream_stream("/tutelage.v1.PolicyService/ActStream")
            try:
                replies = [*method(iter(contents), timeout=20)]
            except grpc.RpcError as error:
                return error.code()
            assert len(replies) == len(contents)
            return grpc.StatusCode.OK

        yield status, stream_status


fuzzed = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@fuzzed
@given(request=acts)
@example(pb.ActRequest(observation=Array(values=[1e300] * 4)))
def test_act_takes_any_field_values(call: Call, request: pb.ActRequest) -> None:
    assert call("Act", request.SerializeToString()) in FINE


@fuzzed
@given(request=batches)
def test_act_batch_takes_any_field_values(call: Call, request: pb.ActBatchRequest) -> None:
    assert call("ActBatch", request.SerializeToString()) in FINE


@fuzzed
@given(requests=st.lists(acts, max_size=4))
def test_act_stream_takes_any_field_values(
    stream: Stream, requests: Sequence[pb.ActRequest]
) -> None:
    assert stream([request.SerializeToString() for request in requests]) in FINE


@settings(fuzzed, max_examples=50)
@given(contents=st.lists(st.binary(max_size=64), max_size=3))
def test_any_bytes_on_a_stream_are_answered(stream: Stream, contents: Sequence[bytes]) -> None:
    assert stream(contents) in FINE


@fuzzed
@given(request=reports)
def test_report_outcome_takes_any_field_values(
    call: Call, request: pb.ReportOutcomeRequest
) -> None:
    assert call("ReportOutcome", request.SerializeToString()) in FINE


@fuzzed
@given(request=names)
def test_get_policy_takes_any_name(call: Call, request: pb.GetPolicyRequest) -> None:
    assert call("GetPolicy", request.SerializeToString()) in FINE


@fuzzed
@given(request=aliases)
def test_set_alias_takes_any_field_values(call: Call, request: pb.SetAliasRequest) -> None:
    assert call("SetAlias", request.SerializeToString()) in FINE


@fuzzed
@given(content=st.binary(max_size=64))
@pytest.mark.parametrize(
    "method", ["Act", "ActBatch", "ReportOutcome", "GetPolicy", "ListPolicies", "SetAlias"]
)
def test_any_bytes_are_answered(call: Call, method: str, content: bytes) -> None:
    assert call(method, content) in FINE
