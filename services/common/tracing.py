"""OpenTelemetry's spans of calls. Imported only where traces are wanted.

What is sent where is said by OpenTelemetry's own variables (OTEL_…), which its SDK reads.
"""

from __future__ import annotations

import os
import threading
import time

from google.rpc import code_pb2
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_trace_id

from services.common.server.watching import WatchedCall

SCOPE = "tutelage"
TRACE = "trace"  # of a call's notes
# Of a server's spans only these are errors: the others are the caller's.
FAULTS = frozenset(
    {
        code_pb2.UNKNOWN,
        code_pb2.DEADLINE_EXCEEDED,
        code_pb2.UNIMPLEMENTED,
        code_pb2.INTERNAL,
        code_pb2.UNAVAILABLE,
        code_pb2.DATA_LOSS,
    }
)


def open_provider(service: str, protocol: str) -> TracerProvider:
    """What sends spans by OTLP in batches, from a thread of its own.

    Args:
        service: its name, unless the variables say another.
        protocol: grpc, or else http/protobuf.
    """
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: service}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(protocol)))
    return provider


def close_provider(provider: TracerProvider, timeout_s: float) -> None:
    """Send what there is; a collector that does not answer is not waited for for longer."""
    closing = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
    closing.start()
    closing.join(timeout_s)


def _exporter(protocol: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http import trace_exporter

    return trace_exporter.OTLPSpanExporter()


class CallSpans:
    """A server's span for each call, of the trace that its caller names if it does; see Watcher.

    The call keeps its span.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def began(self, call: WatchedCall) -> None:
        """See Watcher."""
        carrier = {key: value for key, value in call.metadata if isinstance(value, str)}
        span = self._tracer.start_span(
            call.method[1:],
            extract(carrier),
            SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": call.method[1:]},
            start_time=since_epoch(call.arrived),
        )
        call.kept = span
        if span.is_recording():
            call.notes[TRACE] = format_trace_id(span.get_span_context().trace_id)

    def ended(self, call: WatchedCall, code: int, error: Exception | None) -> None:
        """See Watcher."""
        span: Span = call.kept
        if span.is_recording():
            _describe(span, call, code, error)
        span.end()


def _describe(span: Span, call: WatchedCall, code: int, error: Exception | None) -> None:
    status = code_pb2.Code.Name(code)
    span.set_attribute("rpc.response.status_code", status)
    span.set_attribute("network.peer.address", call.peer)
    for key, value in call.notes.items():
        if key != TRACE:
            span.set_attribute(f"tutelage.{key}", value)
    if code in FAULTS:
        span.set_attribute("error.type", status)
        span.set_status(Status(StatusCode.ERROR, str(error) if error else None))


def since_epoch(monotonic_s: float) -> int:
    """A moment of time.monotonic() in ns since 1970, as spans have it."""
    return time.time_ns() - int((time.monotonic() - monotonic_s) * 1e9)
