"""gRPC connections owned by C++, whose calls Python answers in batches."""

from tutelage_transport._native import Call, Server

__all__ = ["Call", "Server"]
