"""What every gRPC service of the platform has: health, reflection, errors, metrics, drain."""

from services.common.server.bootstrap import ServerOptions, Service, run_service

__all__ = ["ServerOptions", "Service", "run_service"]
