"""What a person with grpcurl does: find the service by reflection, call it with JSON."""

from __future__ import annotations

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tiny_policies import linear_model, publish

from services.common.registry import PolicyRegistry

SERVICE = "tutelage.v1.PolicyService"


def test_a_call_by_reflection_is_answered(start_service, registry: PolicyRegistry) -> None:
    publish(registry, linear_model())
    service = start_service()

    with grpc.insecure_channel(service.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        assert "grpc.health.v1.Health" in database.get_services()
        method = DescriptorPool(database).FindServiceByName(SERVICE).methods_by_name["Act"]
        request = json_format.Parse(
            '{"policy":"cartpole","observation":{"values":[0,0,0,0]}}',
            GetMessageClass(method.input_type)(),
        )
        call = channel.unary_unary(
            f"/{SERVICE}/Act",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        reply = json_format.MessageToDict(call(request, timeout=10))

    assert reply["action"] in ({}, {"discrete": "0"})
    assert reply["version"] == "1"
    assert len(reply["digest"]) == 64
