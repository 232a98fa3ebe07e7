"""Takes OpenTelemetry's spans by OTLP over gRPC, as a collector does, and keeps them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as stubs
from opentelemetry.proto.trace.v1 import trace_pb2


class Collector(stubs.TraceServiceServicer):
    """Listens on a free port of the loopback address until closed."""

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []
        self.resources: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        stubs.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._lock:
            for resource in request.resource_spans:
                self.resources.append(attributes(resource.resource))
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        return pb.ExportTraceServiceResponse()

    def wait(self, enough: Callable[[list[trace_pb2.Span]], bool]) -> list[trace_pb2.Span]:
        """All spans, once there are enough."""
        deadline = time.monotonic() + 20
        while True:
            with self._lock:
                spans = list(self.spans)
            if enough(spans):
                return spans
            assert time.monotonic() < deadline, [span.name for span in spans]
            time.sleep(0.02)

    def close(self) -> None:
        self._server.stop(0).wait()


def attributes(of: Any) -> dict[str, Any]:
    """Of a span or a resource."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}
