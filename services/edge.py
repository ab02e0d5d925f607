"""What every RPC of ours passes on its way in and out: deadline, validation, error mapping.

One interceptor, so that no service can forget one of them. It wraps the methods of this
project's protos only; health, reflection and channelz are left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from services.errors import InvalidArgument, ServiceError, Unavailable
from txn.errors import TxnError
from txn.rpc import Context, abort_with, rich_status, status_of, violations_of
from txn.rpc.quick import surely_valid

DEADLINE_MAX_S = 60.0
OUR_METHODS = "/tallystick."

_log = structlog.get_logger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Behaviour = Callable[[Message, Context], Awaitable[Message]]
_Guarded = Callable[[Message | None, Context], Awaitable[Message]]
_Deserializer = Callable[[bytes], Message]


class Edge(grpc.aio.ServerInterceptor):
    """See the module's docstring."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wraps the behaviour of our unary methods."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(OUR_METHODS) or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            _guarded(method, handler.unary_unary),  # type: ignore[arg-type]
            request_deserializer=_readable(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _readable(deserialize: _Deserializer | None) -> Callable[[bytes], Message | None]:
    """Reads a request, or None: left to itself gRPC would show the caller the exception."""
    assert deserialize is not None

    def read(raw: bytes) -> Message | None:
        try:
            return deserialize(raw)
        except DecodeError:
            return None

    return read


def _guarded(method: str, behaviour: _Behaviour) -> _Guarded:
    async def guarded(request: Message | None, context: Context) -> Message:  # noqa: RET503
        if request is None:
            await abort_with(
                context,
                rich_status(grpc.StatusCode.INTERNAL, "MALFORMED", "the request is no message"),
            )
        try:
            return await _answer(behaviour, request, context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except ServiceError as error:
            status = rich_status(error.code, error.reason, error.message, error.violations)
        except TxnError as error:
            status = status_of(error)
        except TimeoutError:
            status = rich_status(
                grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE", f"not done in {DEADLINE_MAX_S:g} s"
            )
        except Exception:  # noqa: BLE001 - the edge: nothing of the inside may leave
            _log.exception("unexpected", method=method)
            status = rich_status(grpc.StatusCode.INTERNAL, "INTERNAL", "internal error")
        await abort_with(context, status)

    return guarded


async def _answer(behaviour: _Behaviour, request: Message, context: Context) -> Message:
    if not surely_valid(request) and (violations := violations_of(request)):
        raise InvalidArgument(*violations)
    # A caller without a deadline, or with one of a year, gets this one.
    async with asyncio.timeout(DEADLINE_MAX_S):
        try:
            return await behaviour(request, context)
        except grpc.aio.AioRpcError as error:
            # What a service behind this one said is not for this one's caller, unless the
            # service itself has put it in words of its own.
            _log.warning("downstream", code=error.code().name, details=error.details())
            raise Unavailable(
                "DOWNSTREAM_UNAVAILABLE", "a service needed for this did not answer"
            ) from error
