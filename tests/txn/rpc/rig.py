"""Servers on ephemeral ports and channels to them, for the edge of txn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.type.v1 import money_pb2

from tests.support.waiting import eventually
from txn.errors import TxnError, Unreachable
from txn.model import Batch, Message, VoteReply
from txn.rpc import GrpcParticipantTransport

TIMEOUT_S = 5.0
Adds = Callable[[grpc.aio.Server], None]


@asynccontextmanager
async def served(*adds: Adds, interceptors: Any = None) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with these services."""
    server = grpc.aio.server(interceptors=interceptors)
    for add in adds:
        add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    try:
        yield channel
    finally:
        await channel.close()
        await server.stop(None)


class Without(grpc.aio.ServerInterceptor):
    """A server of a release that did not have some methods yet; it counts its calls."""

    def __init__(self, *methods: str) -> None:
        self.methods = methods
        self.calls = 0

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """See grpc.aio.ServerInterceptor."""
        self.calls += 1
        if details.method.rpartition("/")[2] in self.methods:
            return None
        return await continuation(details)


async def told(
    transport: GrpcParticipantTransport, message: Message, timeout_s: float = TIMEOUT_S
) -> VoteReply | None:
    """The answer to a message that goes alone; raises what stands in its place."""
    (reply,) = await transport.exchange("p", Batch([message]), timeout_s)
    if isinstance(reply, TxnError):
        raise reply
    return reply


async def unary_found_out(transport: GrpcParticipantTransport) -> None:
    """Returns when the transport knows that its peer offers no streams.

    gRPC for Python says INTERNAL, and not UNIMPLEMENTED, where the call ends during a write;
    a coordinator would ask again.
    """

    async def found_out() -> bool:
        try:
            return not await transport.exchange("p", Batch([]), TIMEOUT_S)
        except Unreachable:
            return False

    await eventually(found_out)


class Answers(grpc.GenericRpcHandler):
    """A peer that answers every method with the same bytes, or as the function does."""

    def __init__(self, answer: bytes | Callable[[Any], Awaitable[bytes]]) -> None:
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See grpc.GenericRpcHandler."""

        async def behave(request: bytes, context: Any) -> bytes:
            if isinstance(self._answer, bytes):
                return self._answer
            return await self._answer(context)

        return grpc.unary_unary_rpc_method_handler(behave)

    def add(self, server: grpc.aio.Server) -> None:
        """Adds itself."""
        server.add_generic_rpc_handlers((self,))


async def failed(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """The status with which a call fails."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"did not fail: {reply}")


def details(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    """ErrorInfo.reason, and BadRequest as field -> rule."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert isinstance(status, status_pb2.Status)
    assert error.code().value[0] == status.code
    reason, fields = "", {}
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            assert info.domain == "tallystick"
            reason = info.reason
        elif detail.Unpack(bad):
            fields = {v.field: v.reason for v in bad.field_violations}
    return reason, fields


def transfer(**changes: Any) -> ledger_service_pb2.TransferOperation:
    """A good transfer with changes."""
    fields: dict[str, Any] = {
        "debit_account_id": "user:a",
        "credit_account_id": "shop",
        "amount": money_pb2.Money(currency_code="EUR", amount_minor=100),
    }
    return ledger_service_pb2.TransferOperation(**{**fields, **changes})


def packed(message: Any) -> any_pb2.Any:
    """As an operation travels."""
    any_ = any_pb2.Any()
    any_.Pack(message)
    return any_


def garbled(code: grpc.StatusCode) -> status_pb2.Status:
    """A status with details that say what they are, and are not."""
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    return status_pb2.Status(
        code=code.value[0],
        message="said so",
        details=[
            any_pb2.Any(type_url=f"type.googleapis.com/{kind.DESCRIPTOR.full_name}", value=b"\xff")
            for kind in kinds
        ],
    )
