"""gRPC's health protocol (grpc.health.v1) as a table of methods."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence

from grpc_health.v1 import health_pb2 as pb

from services.common.errors import NotFound
from services.common.server.calls import Call, MethodTable, StreamMethod, unary

NAME = pb.DESCRIPTOR.services_by_name["Health"].full_name


class Health:
    """Whether each service serves; "" is the whole server. Belongs to one event loop."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = {"", *services}
        self._status: int = pb.HealthCheckResponse.NOT_SERVING
        self._changed = asyncio.Condition()
        self.table = MethodTable(
            NAME,
            {
                "Check": unary(pb.HealthCheckRequest, self._check),
                "Watch": StreamMethod(self._watch),
            },
        )

    async def set_serving(self, serving: bool) -> None:
        """Say so of all services, and to all who watch."""
        response = pb.HealthCheckResponse
        async with self._changed:
            self._status = response.SERVING if serving else response.NOT_SERVING
            self._changed.notify_all()

    def _of(self, service: str) -> int:
        return self._status if service in self._services else pb.HealthCheckResponse.SERVICE_UNKNOWN

    async def _check(self, request: pb.HealthCheckRequest, call: Call) -> pb.HealthCheckResponse:
        if request.service not in self._services:
            raise NotFound(f"no service {request.service!r} here")
        return pb.HealthCheckResponse(status=self._status)

    async def _watch(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for content in requests:
            service = pb.HealthCheckRequest.FromString(content).service
            break
        told = None
        while True:
            async with self._changed:
                await self._changed.wait_for(functools.partial(self._differs, service, told))
                told = self._of(service)
            yield pb.HealthCheckResponse(status=told).SerializeToString()

    def _differs(self, service: str, told: object) -> bool:
        return self._of(service) != told
