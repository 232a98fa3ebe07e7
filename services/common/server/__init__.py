"""What every gRPC service of the platform has: health, reflection, errors, metrics, drain."""

from services.common.server.bootstrap import ServerOptions, Service, Tls, run_service

__all__ = ["ServerOptions", "Service", "Tls", "run_service"]
