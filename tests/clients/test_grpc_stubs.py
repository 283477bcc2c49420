"""Health and reflection with the stubs of their own packages, and a call made from reflection alone."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.e2e.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.cluster]

SERVICE = "adasd.v1.Generation"


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


@pytest.mark.parametrize("service", ["", SERVICE])
def test_alive_and_ready(channel: grpc.Channel, service: str):
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_an_unknown_service_is_not_found_or_unknown(channel: grpc.Channel):
    stub = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_a_client_that_knows_nothing_learns_the_interface_and_gets_an_answer(channel: grpc.Channel):
    """As grpcurl does: list, describe, build the messages, call."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    method = descriptor_pool.DescriptorPool(database).FindServiceByName(SERVICE).FindMethodByName("Generate")
    assert method.server_streaming
    request_kind = message_factory.GetMessageClass(method.input_type)
    answer_kind = message_factory.GetMessageClass(method.output_type)
    request = request_kind(text="Tell a short story.", sampling={"max_tokens": 8, "ignore_eos": True})
    generate = channel.unary_stream(
        f"/{SERVICE}/Generate",
        request_serializer=request_kind.SerializeToString,
        response_deserializer=answer_kind.FromString,
    )
    *chunks, last = list(generate(request, timeout=30))
    assert sum(len(answer.chunk.token_ids) for answer in chunks) == 8
    assert last.complete.usage.completion_tokens == 8
