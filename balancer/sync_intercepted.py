"""What a stub calls from a thread when there are interceptors: the four kinds of RPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from balancer.policy import MetadataType
from balancer.sync_interceptors import Chain

if TYPE_CHECKING:
    _UnaryUnary: TypeAlias = grpc.UnaryUnaryMultiCallable[Any, Any]
    _UnaryStream: TypeAlias = grpc.UnaryStreamMultiCallable[Any, Any]
    _StreamUnary: TypeAlias = grpc.StreamUnaryMultiCallable[Any, Any]
    _StreamStream: TypeAlias = grpc.StreamStreamMultiCallable[Any, Any]
else:
    # Generic in the stubs only.
    _UnaryUnary = grpc.UnaryUnaryMultiCallable
    _UnaryStream = grpc.UnaryStreamMultiCallable
    _StreamUnary = grpc.StreamUnaryMultiCallable
    _StreamStream = grpc.StreamStreamMultiCallable


class InterceptedSyncUnaryUnary(_UnaryUnary):
    """One request, one response."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The response. `timeout` in seconds. Raises RpcError, and what interceptors raise."""
        return self._chain.call(
            request, timeout, metadata, credentials, wait_for_ready, compression
        )[0]

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The response and the call that gave it. Raises as `__call__` does."""
        return self._chain.call(
            request, timeout, metadata, credentials, wait_for_ready, compression
        )

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The call, which is a grpc.Future of the response."""
        return self._chain.start(
            "future", request, timeout, metadata, credentials, wait_for_ready, compression
        )


class InterceptedSyncUnaryStream(_UnaryStream):
    """One request, a stream of responses."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The call, an iterator of responses. `timeout` in seconds."""
        return self._chain.start(
            "__call__", request, timeout, metadata, credentials, wait_for_ready, compression
        )


class InterceptedSyncStreamUnary(_StreamUnary):
    """A stream of requests, one response."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The response. `timeout` in seconds. Raises RpcError, and what interceptors raise."""
        return self._chain.call(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )[0]

    def with_call(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The response and the call that gave it. Raises as `__call__` does."""
        return self._chain.call(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )

    def future(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The call, which is a grpc.Future of the response."""
        return self._chain.start(
            "future", request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )


class InterceptedSyncStreamStream(_StreamStream):
    """A stream of requests, a stream of responses."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The call, an iterator of responses. `timeout` in seconds."""
        return self._chain.start(
            "__call__",
            request_iterator,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
            compression,
        )
