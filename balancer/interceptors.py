"""Interceptors on a channel: a chain of our own, once per call, outside of its attempts.

grpc.aio runs interceptors inside of a channel; with many channels underneath, and calls that
are tried again, that would be once per attempt. Here the innermost continuation makes a call
of the balanced channel, so that retries and hedges happen inside (the order of gRPC's other
languages, gRFC A6). The interfaces are grpc.aio's. Unlike there, an interceptor of several
kinds serves each of them, not only the first.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import grpc
import grpc.aio

from balancer.intercepted_call import (
    InterceptedStreamStreamCall,
    InterceptedStreamUnaryCall,
    InterceptedUnaryStreamCall,
    InterceptedUnaryUnaryCall,
)
from balancer.policy import MetadataType
from balancer.request_feed import RequestFeed
from balancer.substitute_call import adopt_response, adopt_responses

Req = TypeVar("Req")
Res = TypeVar("Res")

Details: TypeAlias = grpc.aio.ClientCallDetails
Intercept: TypeAlias = Callable[[Callable[[Details, Any], Awaitable[Any]], Details, Any], Any]
# The multicallable, without interceptors, of the method with this path.
MultiCallableOf: TypeAlias = Callable[[str], Callable[..., Any]]

# How many other methods the interceptors of one multicallable may turn to without cost.
REWRITTEN_METHODS_MAX: Final = 64
_CLOSED: Final = "Channel is closed."


class Interceptors(NamedTuple):
    """The interceptors of a channel by the kind of call they are for, outermost first."""

    unary_unary: tuple[Intercept, ...]
    unary_stream: tuple[Intercept, ...]
    stream_unary: tuple[Intercept, ...]
    stream_stream: tuple[Intercept, ...]


def sorted_by_kind(interceptors: Sequence[grpc.aio.ClientInterceptor]) -> Interceptors:
    """`interceptors`, in their order, for each kind. Raises ValueError as gRPC does."""
    of_kind: tuple[list[Intercept], ...] = ([], [], [], [])
    for interceptor in interceptors:
        found = False
        for (kind, name), into in zip(_KINDS, of_kind, strict=True):
            if isinstance(interceptor, kind):
                into.append(getattr(interceptor, name))
                found = True
        if not found:
            names = " or ".join(kind.__name__ for kind, _ in _KINDS)
            raise ValueError(f"Interceptor {interceptor!r} must be {names}.")
    return Interceptors(*map(tuple, of_kind))


_KINDS: Final[tuple[tuple[type[grpc.aio.ClientInterceptor], str], ...]] = (
    (grpc.aio.UnaryUnaryClientInterceptor, "intercept_unary_unary"),
    (grpc.aio.UnaryStreamClientInterceptor, "intercept_unary_stream"),
    (grpc.aio.StreamUnaryClientInterceptor, "intercept_stream_unary"),
    (grpc.aio.StreamStreamClientInterceptor, "intercept_stream_stream"),
)


class Chains:
    """The calls of a channel that are with their interceptors."""

    def __init__(self) -> None:
        self._closed = False
        self._chains: dict[asyncio.Task[Any], None] = {}

    def start(self, running: Any) -> asyncio.Task[Any]:
        """Runs the coroutine `running`. Raises UsageError once closed."""
        if self._closed:
            running.close()
            raise grpc.aio.UsageError(_CLOSED)
        chain = asyncio.get_running_loop().create_task(running)
        self._chains[chain] = None
        chain.add_done_callback(self._chains.pop)
        return chain

    async def close(self, grace_s: float) -> None:
        """Refuses new ones, gives these `grace_s`, cancels the rest."""
        self._closed = True
        chains = list(self._chains)
        if chains and grace_s:
            await asyncio.wait(chains, timeout=grace_s)
        for chain in chains:
            chain.cancel()


class _Intercepted:
    """What the four kinds have in common: the chain from the details to a call."""

    _adopt = staticmethod(adopt_response)

    def __init__(
        self, path: str, intercepts: tuple[Intercept, ...], chains: Chains, make: MultiCallableOf
    ) -> None:
        self._path = path
        self._intercepts = intercepts
        self._chains = chains
        self._multicallable = functools.lru_cache(REWRITTEN_METHODS_MAX)(make)

    def _start(
        self,
        request: Any,
        timeout: float | None,
        metadata: MetadataType | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> asyncio.Task[Any]:
        # The path is bytes on gRPC's channel, whatever its types say.
        path: Any = self._path.encode()
        details = Details(path, timeout, _as_metadata(metadata), credentials, wait_for_ready)
        return self._chains.start(self._run(0, compression, details, request))

    async def _run(
        self, depth: int, compression: grpc.Compression | None, details: Details, request: Any
    ) -> Any:
        if depth == len(self._intercepts):
            return self._call(details, request, compression)
        inner: Any = None

        async def continuation(details: Details, request: Any) -> Any:
            nonlocal inner
            inner = await self._run(depth + 1, compression, details, request)
            return inner

        try:
            returned = await self._intercepts[depth](continuation, details, request)
        except BaseException:
            # Nobody else holds the call that was left behind.
            if inner is not None:
                inner.cancel()
            raise
        return self._adopt(returned, inner)

    def _call(self, details: Details, request: Any, compression: grpc.Compression | None) -> Any:
        method: str | bytes = details.method
        multicallable = self._multicallable(
            method.decode() if isinstance(method, bytes) else method
        )
        return multicallable(
            request,
            timeout=details.timeout,
            metadata=details.metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=compression,
        )


class InterceptedUnaryUnary(_Intercepted, grpc.aio.UnaryUnaryMultiCallable[Req, Res]):
    """One request, one response."""

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
        chain = self._start(request, timeout, metadata, credentials, wait_for_ready, compression)
        return InterceptedUnaryUnaryCall(chain, timeout)


class InterceptedUnaryStream(_Intercepted, grpc.aio.UnaryStreamMultiCallable[Req, Res]):
    """One request, a stream of responses."""

    _adopt = staticmethod(adopt_responses)

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
        chain = self._start(request, timeout, metadata, credentials, wait_for_ready, compression)
        return InterceptedUnaryStreamCall(chain, timeout)


class InterceptedStreamUnary(_Intercepted, grpc.aio.StreamUnaryMultiCallable[Req, Res]):
    """A stream of requests, one response."""

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
        feed = RequestFeed() if request_iterator is None else None
        requests = request_iterator if feed is None else feed
        chain = self._start(requests, timeout, metadata, credentials, wait_for_ready, compression)
        return InterceptedStreamUnaryCall(chain, timeout, feed)


class InterceptedStreamStream(_Intercepted, grpc.aio.StreamStreamMultiCallable[Req, Res]):
    """A stream of requests, a stream of responses."""

    _adopt = staticmethod(adopt_responses)

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
        feed = RequestFeed() if request_iterator is None else None
        requests = request_iterator if feed is None else feed
        chain = self._start(requests, timeout, metadata, credentials, wait_for_ready, compression)
        return InterceptedStreamStreamCall(chain, timeout, feed)


def _as_metadata(metadata: MetadataType | None) -> grpc.aio.Metadata:
    # What interceptors are promised: they add to it without looking at what it is.
    if isinstance(metadata, grpc.aio.Metadata):
        return metadata
    return grpc.aio.Metadata.from_tuple(tuple(metadata or ()))
