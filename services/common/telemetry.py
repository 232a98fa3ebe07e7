"""Structured logs, and metrics for Prometheus."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import structlog
from prometheus_client import start_http_server

from services.common.errors import InvalidConfig, ResourceExhausted

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
LogFormat = Literal["auto", "console", "json"]


def configure_logging(service: str, log_format: LogFormat = "auto", level: str = "info") -> None:
    """Send structlog's and the standard library's records to stderr, one line each."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    errors = [] if console else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *errors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        # Which writes a line and its end at once: several processes may share a stderr.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *errors,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    structlog.contextvars.bind_contextvars(service=service)


def serve_metrics(port: int, host: str = "127.0.0.1") -> None:
    """Answer GET /metrics on a port of its own, in a daemon thread.

    Raises:
        ResourceExhausted: when the port is taken.
    """
    try:
        start_http_server(port, addr=host)
    except OSError as error:
        raise ResourceExhausted(f"metrics port {host}:{port}: {error.strerror}") from error


def traces_wanted(service: str, environment: Mapping[str, str]) -> TracerProvider | None:
    """What sends OpenTelemetry's spans, where its own variables (OTEL_…) ask for it; else None.

    Raises:
        InvalidConfig: when they ask for what there is not, or opentelemetry is not installed.
    """
    usual = "otlp" if any(environment.get(name) for name in ENDPOINTS) else "none"
    exporter = environment.get("OTEL_TRACES_EXPORTER") or usual
    if exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), "grpc")
    if exporter != "otlp" or protocol not in ("grpc", "http/protobuf"):
        raise InvalidConfig(
            f"traces are to be sent by {exporter!r} and {protocol!r}, expected "
            "OTEL_TRACES_EXPORTER otlp or none, OTEL_EXPORTER_OTLP_PROTOCOL grpc or http/protobuf"
        )
    try:
        from services.common.tracing import open_provider
    except ImportError as error:
        raise InvalidConfig(
            f"traces are asked for by OTEL_…: pip install 'tutelage-platform[traces]' ({error})"
        ) from None
    return open_provider(f"tutelage-{service}", protocol)
