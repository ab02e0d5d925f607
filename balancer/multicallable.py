"""What a stub calls: the four kinds of RPC, with the signatures that grpc.aio gives them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Any, TypeVar

import grpc
import grpc.aio

from balancer.call import (
    DeferredCall,
    DeferredStreamStreamCall,
    DeferredStreamUnaryCall,
    DeferredUnaryStreamCall,
    DeferredUnaryUnaryCall,
)
from balancer.dispatch import CallOptions, Dispatcher
from balancer.hedged import HedgedUnaryUnaryCall
from balancer.policy import MetadataType
from balancer.retrying import RetryingCall, RetryingUnaryStreamCall, RetryingUnaryUnaryCall

Req = TypeVar("Req")
Res = TypeVar("Res")


def _start_repeatable(
    dispatcher: Dispatcher,
    deferred: type[DeferredCall[Any, Any]],
    retrying: type[RetryingCall[Any, Any]],
    request: Any,
    options: CallOptions,
) -> Any:
    dispatcher.check_open()
    options = dispatcher.with_deadline(options)
    method = dispatcher.again()
    if method is not None:
        if method.hedging is not None and retrying is RetryingUnaryUnaryCall:
            return HedgedUnaryUnaryCall(
                dispatcher, method, dispatcher.retries, request, options, method.hedging
            )
        return retrying(dispatcher, method, dispatcher.retries, request, options)
    return _start(dispatcher, deferred, request, options)


def _start(
    dispatcher: Dispatcher,
    deferred: type[DeferredCall[Any, Any]],
    request: Any,
    options: CallOptions,
) -> Any:
    dispatcher.check_open()
    options = dispatcher.with_deadline(options)
    attempt = dispatcher.start(request, options)
    return deferred(dispatcher, request, options) if attempt is None else attempt.call


class UnaryUnary(grpc.aio.UnaryUnaryMultiCallable[Req, Res]):
    """One request, one response."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(
        self,
        request: Req,
        *,
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.UnaryUnaryCall[Req, Res]:
        """Starts a call; `timeout` in seconds. Raises UsageError once closed."""
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        call: grpc.aio.UnaryUnaryCall[Req, Res]
        call = _start_repeatable(
            self._dispatcher, DeferredUnaryUnaryCall, RetryingUnaryUnaryCall, request, options
        )
        return call


class UnaryStream(grpc.aio.UnaryStreamMultiCallable[Req, Res]):
    """One request, a stream of responses."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(
        self,
        request: Req,
        *,
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.UnaryStreamCall[Req, Res]:
        """Starts a call; `timeout` in seconds. Raises UsageError once closed."""
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        call: grpc.aio.UnaryStreamCall[Req, Res]
        call = _start_repeatable(
            self._dispatcher, DeferredUnaryStreamCall, RetryingUnaryStreamCall, request, options
        )
        return call


class StreamUnary(grpc.aio.StreamUnaryMultiCallable[Req, Res]):
    """A stream of requests, one response."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(
        self,
        request_iterator: AsyncIterable[Req] | Iterable[Req] | None = None,
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.StreamUnaryCall[Req, Res]:
        """Starts a call; `timeout` in seconds. Raises UsageError once closed."""
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        call: grpc.aio.StreamUnaryCall[Req, Res]
        call = _start(self._dispatcher, DeferredStreamUnaryCall, request_iterator, options)
        return call


class StreamStream(grpc.aio.StreamStreamMultiCallable[Req, Res]):
    """A stream of requests, a stream of responses."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(
        self,
        request_iterator: AsyncIterable[Req] | Iterable[Req] | None = None,
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.StreamStreamCall[Req, Res]:
        """Starts a call; `timeout` in seconds. Raises UsageError once closed."""
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        call: grpc.aio.StreamStreamCall[Req, Res]
        call = _start(self._dispatcher, DeferredStreamStreamCall, request_iterator, options)
        return call
