"""What one coordinator asks another, on a connection of its own for each question.

Whoever shares a connection with calls shares what those know of it: one to a process that
stands still looks well until something is sent.
"""

from __future__ import annotations

from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2
from tallystick.txn.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc

from txn.errors import Unreachable
from txn.rpc.attempt import attempt
from txn.rpc.status import violations_of

ASK_TIMEOUT_S = 0.75
SERVICE = coordinator_service_pb2.DESCRIPTOR.services_by_name["CoordinatorService"].full_name
OLDER_RELEASE = "it is of a release that does not say which log it decides in"

_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


class Asking(Protocol):
    """How others are asked. Raises nothing."""

    async def who(
        self, address: str
    ) -> coordinator_service_pb2.GetCoordinatorResponse | str | None:
        """Which coordinator is there; why that is no good, or None without an answer."""

    async def lives(self, address: str) -> bool:
        """Whether a coordinator answers there, even if only that it does not serve."""


class GrpcAsking:
    """See Asking; each answer within ASK_TIMEOUT_S."""

    async def who(
        self, address: str
    ) -> coordinator_service_pb2.GetCoordinatorResponse | str | None:
        """See Asking.who."""
        request = coordinator_service_pb2.GetCoordinatorRequest()
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
            try:
                reply: coordinator_service_pb2.GetCoordinatorResponse = await attempt(
                    lambda: stub.GetCoordinator(request, timeout=ASK_TIMEOUT_S)
                )
            except grpc.aio.AioRpcError as error:
                return OLDER_RELEASE if error.code() is grpc.StatusCode.UNIMPLEMENTED else None
            except Unreachable:
                return None
        return None if violations_of(reply) else reply

    async def lives(self, address: str) -> bool:
        """See Asking.lives."""
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            check: grpc.aio.UnaryUnaryMultiCallable[
                health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
            ] = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                await attempt(lambda: check(request, timeout=ASK_TIMEOUT_S))
            except (grpc.aio.AioRpcError, Unreachable):
                return False
        return True
