"""gRPC's server reflection as a table of methods, which is what grpcurl asks first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from services.common.server.calls import Call, MethodTable, StreamMethod

# Two names of one protocol, whose messages are the same on the wire.
NAMES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)


def reflection_tables(services: Sequence[str]) -> list[MethodTable]:
    """Tables that describe services of these names."""
    servicer: Any = reflection.aio.ReflectionServicer([*services, reflection.SERVICE_NAME])

    async def describe(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async def parsed() -> AsyncIterator[ServerReflectionRequest]:
            async for content in requests:
                yield ServerReflectionRequest.FromString(content)

        async for reply in servicer.ServerReflectionInfo(parsed(), None):
            yield reply.SerializeToString()

    return [MethodTable(name, {"ServerReflectionInfo": StreamMethod(describe)}) for name in NAMES]
