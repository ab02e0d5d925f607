"""Interceptors on a channel for threads: a chain of our own, once per call, outside its attempts.

The interfaces and what a user sees are those of `grpc.intercept_channel`: the same order, the
same thread, errors handed to the outer interceptor as calls. Two things are better: a call that
an interceptor replaces by an iterator of responses keeps its accessors, and one that ends by
an RpcError of an interceptor has that error's status. What the innermost continuation makes is
a call of the balanced channel, so that retries and hedges happen inside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import grpc

from balancer.interceptors import REWRITTEN_METHODS_MAX, Interceptors, MultiCallableOf
from balancer.policy import MetadataType
from balancer.sync_substitute import EndedCall, adopt_responses

SyncInterceptor: TypeAlias = (
    grpc.UnaryUnaryClientInterceptor
    | grpc.UnaryStreamClientInterceptor
    | grpc.StreamUnaryClientInterceptor
    | grpc.StreamStreamClientInterceptor
)

_KINDS: Final[tuple[tuple[type, str], ...]] = (
    (grpc.UnaryUnaryClientInterceptor, "intercept_unary_unary"),
    (grpc.UnaryStreamClientInterceptor, "intercept_unary_stream"),
    (grpc.StreamUnaryClientInterceptor, "intercept_stream_unary"),
    (grpc.StreamStreamClientInterceptor, "intercept_stream_stream"),
)


def sync_sorted_by_kind(interceptors: Sequence[SyncInterceptor]) -> Interceptors:
    """`interceptors`, in their order, for each kind. Raises TypeError as gRPC does."""
    for interceptor in interceptors:
        if not isinstance(interceptor, tuple(kind for kind, _ in _KINDS)):
            names = " or ".join(kind.__name__ for kind, _ in _KINDS)
            raise TypeError(f"interceptor {interceptor!r} must be {names}")
    return Interceptors(
        *(
            tuple(getattr(each, name) for each in interceptors if isinstance(each, kind))
            for kind, name in _KINDS
        )
    )


class _Fields(NamedTuple):
    method: str
    timeout: float | None
    metadata: MetadataType | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class Details(_Fields, grpc.ClientCallDetails):  # type: ignore[misc]  # metadata may be grpc.aio's
    """What an interceptor is told of a call, and may tell of another; `timeout` in seconds."""

    __slots__ = ()


class Chain:
    """The interceptors of one method, from the details of a call to the call.

    `options` are those of gRPC's multicallables, in their order. `check_open` raises once the
    channel is closed.
    """

    def __init__(
        self,
        path: str,
        intercepts: Sequence[Callable[..., Any]],
        make: MultiCallableOf,
        check_open: Callable[[], None],
    ) -> None:
        self._path = path
        self._check_open = check_open
        self._intercepts = intercepts
        self._multicallable = functools.lru_cache(REWRITTEN_METHODS_MAX)(make)

    def call(self, request: Any, *options: Any) -> tuple[Any, Any]:
        """The response and its call. Raises what the call ended with."""
        self._check_open()
        call = self._run_blocking(0, Details(self._path, *options), request)
        return call.result(), call

    def _run_blocking(self, depth: int, details: Details, request: Any) -> Any:
        if depth == len(self._intercepts):
            multicallable: Any = self._multicallable(details.method)
            return multicallable.with_call(request, *details[1:])[1]

        def continuation(told: grpc.ClientCallDetails, request: Any) -> Any:
            # As in gRPC: an interceptor is handed errors, they are not thrown at it.
            try:
                call = self._run_blocking(depth + 1, _completed(told, details), request)
                call.result()
            except grpc.RpcError as error:
                return error
            except Exception as error:  # noqa: BLE001 - a serializer or another interceptor may raise anything
                return EndedCall(error)
            return call

        return self._intercepts[depth](continuation, details, request)

    def start(self, style: str, request: Any, *options: Any) -> Any:
        """The call object, without blocking."""
        self._check_open()
        return self._run(0, style, Details(self._path, *options), request)

    def _run(self, depth: int, style: str, details: Details, request: Any) -> Any:
        if depth == len(self._intercepts):
            return getattr(self._multicallable(details.method), style)(request, *details[1:])
        inner: Any = None

        def continuation(told: grpc.ClientCallDetails, request: Any) -> Any:
            nonlocal inner
            inner = self._run(depth + 1, style, _completed(told, details), request)
            return inner

        try:
            returned = self._intercepts[depth](continuation, details, request)
        except Exception as error:  # noqa: BLE001 - as in gRPC, whatever it raises is how the call ended
            return EndedCall(error)
        return returned if style == "future" else adopt_responses(returned, inner)


def _completed(told: Any, details: Details) -> Details:
    """What an interceptor says of the call, the rest as it was."""
    if isinstance(told, Details):
        return told
    return Details(*(getattr(told, name, getattr(details, name)) for name in Details._fields))
