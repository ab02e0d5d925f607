"""What a stub calls: the four kinds of RPC, with the signatures that grpc.aio gives them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from functools import partial
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
from balancer.metrics import NO_METRICS
from balancer.policy import MetadataType
from balancer.retrying import RetryingUnaryStreamCall, RetryingUnaryUnaryCall

Req = TypeVar("Req")
Res = TypeVar("Res")


Begin = Callable[[Dispatcher, Any, CallOptions], Any]


class _MultiCallable:
    """What the four kinds have in common: `begin` makes the call object."""

    def __init__(self, dispatcher: Dispatcher, begin: Begin) -> None:
        self._dispatcher = dispatcher
        self._begin = begin
        self._is_counted = dispatcher.shared.metrics is not NO_METRICS

    def _start(self, request: Any, options: CallOptions) -> Any:
        dispatcher = self._dispatcher
        dispatcher.check_open()
        call = self._begin(dispatcher, request, dispatcher.with_deadline(options))
        if self._is_counted:
            dispatcher.count(call)
        return call


def _begin_once(
    deferred: type[DeferredCall[Any, Any]],
    dispatcher: Dispatcher,
    request: Any,
    options: CallOptions,
) -> Any:
    attempt = dispatcher.start(request, options)
    return deferred(dispatcher, request, options) if attempt is None else attempt.follow()


class UnaryUnary(_MultiCallable, grpc.aio.UnaryUnaryMultiCallable[Req, Res]):
    """One request, one response."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        begin: Begin = partial(_begin_once, DeferredUnaryUnaryCall)
        if dispatcher.is_repeatable:
            hedging = dispatcher.method_config.hedging
            begin = RetryingUnaryUnaryCall
            if hedging is not None:
                begin = partial(HedgedUnaryUnaryCall, policy=hedging)
        super().__init__(dispatcher, begin)

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
        call: grpc.aio.UnaryUnaryCall[Req, Res] = self._start(request, options)
        return call


class UnaryStream(_MultiCallable, grpc.aio.UnaryStreamMultiCallable[Req, Res]):
    """One request, a stream of responses."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        once = partial(_begin_once, DeferredUnaryStreamCall)
        super().__init__(dispatcher, RetryingUnaryStreamCall if dispatcher.is_repeatable else once)

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
        call: grpc.aio.UnaryStreamCall[Req, Res] = self._start(request, options)
        return call


class StreamUnary(_MultiCallable, grpc.aio.StreamUnaryMultiCallable[Req, Res]):
    """A stream of requests, one response."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(dispatcher, partial(_begin_once, DeferredStreamUnaryCall))

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
        call: grpc.aio.StreamUnaryCall[Req, Res] = self._start(request_iterator, options)
        return call


class StreamStream(_MultiCallable, grpc.aio.StreamStreamMultiCallable[Req, Res]):
    """A stream of requests, a stream of responses."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(dispatcher, partial(_begin_once, DeferredStreamStreamCall))

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
        call: grpc.aio.StreamStreamCall[Req, Res] = self._start(request_iterator, options)
        return call
