"""Spans of calls, from the real service to a collector, on both transports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from collector import Collector, attributes
from inference_process import InferenceProcess
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tiny_policies import linear_model, publish
from transports import TRANSPORTS

from services.common.errors import InvalidConfig
from services.common.registry import PolicyRegistry
from services.common.telemetry import traces_wanted
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1.policy_pb2_grpc import PolicyServiceStub

STATE = np.array([0, 0, 0, 1], np.float32)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(params=TRANSPORTS)
def service(
    collector: Collector,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[InferenceProcess]:
    publish(PolicyRegistry(str(tmp_path / "policies")), linear_model())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    log = tmp_path / "log"
    process = InferenceProcess(
        tmp_path / "policies",
        log,
        inference_transport=request.param,
        inference_access_log_rate=1,
    )
    yield process
    assert process.stop() == 0
    assert process.records("call failed") == []


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name.endswith(name)]


def test_a_call_has_a_span_of_its_callers_trace_and_parts_of_it(
    service: InferenceProcess, collector: Collector
) -> None:
    request = pb.ActRequest(observation={"values": [0, 0, 0, 1]})
    with grpc.insecure_channel(service.address) as channel:
        traced = [("traceparent", f"00-{TRACE}-{PARENT}-01")]
        PolicyServiceStub(channel).Act(request, metadata=traced, timeout=20)
    spans = collector.wait(lambda spans: len(named(spans, "infer")) >= 1)
    spans = collector.wait(lambda spans: len(named(spans, "PolicyService/Act")) >= 1)
    (act,) = named(spans, "PolicyService/Act")
    assert act.name == "tutelage.v1.PolicyService/Act"
    assert (act.trace_id.hex(), act.parent_span_id.hex()) == (TRACE, PARENT)
    assert act.kind == Span.SPAN_KIND_SERVER
    found = attributes(act)
    assert found.pop("network.peer.address").startswith(("ipv4:127.0.0.1", "ipv6:[::1]"))
    assert found == {
        "rpc.system.name": "grpc",
        "rpc.method": "tutelage.v1.PolicyService/Act",
        "rpc.response.status_code": "OK",
        "tutelage.policy": "cartpole",
        "tutelage.version": 1,
    }
    (queue,), (infer,) = named(spans, "queue"), named(spans, "infer")
    for part in (queue, infer):
        assert (part.trace_id, part.parent_span_id) == (act.trace_id, act.span_id)
        assert part.start_time_unix_nano <= part.end_time_unix_nano
    assert queue.end_time_unix_nano == infer.start_time_unix_nano
    assert attributes(infer) == {"tutelage.batch.rows": 1, "tutelage.batch.requests": 1}
    assert collector.resources[0]["service.name"] == "tutelage-inference"
    (line,) = [line for line in service.records("call") if line["method"].endswith("/Act")]
    assert line["trace"] == TRACE


def test_calls_alike_are_described_alike(service: InferenceProcess, collector: Collector) -> None:
    for _ in range(3):
        service.client.act(STATE)
    spans = collector.wait(lambda spans: len(named(spans, "PolicyService/Act")) == 3)
    for span in named(spans, "PolicyService/Act"):
        assert attributes(span)["tutelage.version"] == 1
    assert len(named(spans, "infer")) == 3


def test_what_fails_is_an_error_only_where_the_service_is_to_blame(
    service: InferenceProcess, collector: Collector
) -> None:
    with grpc.insecure_channel(service.address) as channel:
        stub = PolicyServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.ActBatch(pb.ActBatchRequest(observations={"values": [1]}), timeout=20)
        with pytest.raises(grpc.RpcError):
            stub.ReportOutcome(pb.ReportOutcomeRequest(decision_id="0" * 16 + ".x"), timeout=20)
    spans = collector.wait(lambda spans: len(named(spans, "ReportOutcome")) == 1)
    (batch,), (report,) = named(spans, "ActBatch"), named(spans, "ReportOutcome")
    assert attributes(batch)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert attributes(report)["rpc.response.status_code"] == "FAILED_PRECONDITION"
    assert {batch.status.code, report.status.code} == {0}
    assert len(batch.parent_span_id) == 0
    assert batch.trace_id != report.trace_id


def test_nothing_is_traced_unless_the_variables_ask_for_it() -> None:
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    assert traces_wanted("test", {}) is None
    assert traces_wanted("test", {**asked, "OTEL_TRACES_EXPORTER": "none"}) is None
    assert traces_wanted("test", {**asked, "OTEL_SDK_DISABLED": "true"}) is None
    with pytest.raises(InvalidConfig, match="expected OTEL_TRACES_EXPORTER otlp or none"):
        traces_wanted("test", {"OTEL_TRACES_EXPORTER": "zipkin"})
    for protocol in ("grpc", "http/protobuf"):
        provider = traces_wanted("test", {**asked, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
        assert provider is not None
        provider.shutdown()
