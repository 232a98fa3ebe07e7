"""A policy behind grpc.aio, as one would write it by hand: aio_server.py ADDRESS MODEL."""

import asyncio
import sys

import grpc
import numpy as np
import onnxruntime as ort
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Field = descriptor_pb2.FieldDescriptorProto


def messages():
    file = descriptor_pb2.FileDescriptorProto(name="peer.proto", package="peer.v1", syntax="proto3")
    for name, field, kind, label in (
        ("ActRequest", "observation", Field.TYPE_FLOAT, Field.LABEL_REPEATED),
        ("ActResponse", "action", Field.TYPE_INT64, Field.LABEL_OPTIONAL),
    ):
        file.message_type.add(name=name).field.add(name=field, number=1, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("peer.v1.ActRequest", "peer.v1.ActResponse")
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names]


async def serve(address, model):
    request_class, response_class = messages()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    async def act(request, context):
        observations = np.array(request.observation, np.float32)[None]
        (values,) = session.run(["q_values"], {"observation": observations})
        return response_class(action=int(values[0].argmax()))

    handler = grpc.unary_unary_rpc_method_handler(
        act,
        request_deserializer=request_class.FromString,
        response_serializer=response_class.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("peer.v1.Policy", {"Act": handler}),)
    )
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
