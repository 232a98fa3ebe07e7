"""gRPC's server reflection as a table of methods, which is what grpcurl asks first."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from services.common.server.calls import Call, MethodTable, StreamMethod

# Two names of one protocol, whose messages are the same on the wire.
NAMES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)


def reflection_tables(
    services: Sequence[str], files: Mapping[str, FileDescriptorProto]
) -> list[MethodTable]:
    """Tables that describe services of these names.

    Args:
        files: which describe services that are not to be looked up among the process's own
            descriptors.
    """
    names = [*services, reflection.SERVICE_NAME]
    pool = _pool(set(names) - files.keys(), files.values())
    servicer: Any = reflection.aio.ReflectionServicer(names, pool=pool)

    async def describe(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async def parsed() -> AsyncIterator[ServerReflectionRequest]:
            async for content in requests:
                yield ServerReflectionRequest.FromString(content)

        async for reply in servicer.ServerReflectionInfo(parsed(), None):
            yield reply.SerializeToString()

    return [MethodTable(name, {"ServerReflectionInfo": StreamMethod(describe)}) for name in NAMES]


def _pool(
    names: Iterable[str], files: Iterable[FileDescriptorProto]
) -> descriptor_pool.DescriptorPool:
    """Descriptors of services, apart from the process's own: a file may say something else there,
    such as another library's copy of one protocol."""
    known, pool = descriptor_pool.Default(), descriptor_pool.DescriptorPool()
    for name in names:
        with contextlib.suppress(KeyError):  # it answers, though nothing tells how
            _copy(known.FindFileContainingSymbol(name), pool)
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _copy(file: FileDescriptor, pool: descriptor_pool.DescriptorPool) -> None:
    for dependency in file.dependencies:
        _copy(dependency, pool)
    pool.AddSerializedFile(file.serialized_pb)
