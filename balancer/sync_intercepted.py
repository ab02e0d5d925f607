"""What a stub calls from a thread when there are interceptors: the four kinds of RPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from balancer.grpc_types import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from balancer.policy import MetadataType
from balancer.sync_interceptors import Chain


class InterceptedSyncUnaryUnary(UnaryUnary):
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


class InterceptedSyncUnaryStream(UnaryStream):
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


class InterceptedSyncStreamUnary(StreamUnary):
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


class InterceptedSyncStreamStream(StreamStream):
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
