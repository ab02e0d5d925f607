"""What a stub calls from a thread: the four kinds of RPC, as grpc.Channel gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from balancer.grpc_types import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from balancer.policy import MetadataType
from balancer.sync_attempts import Rpc
from balancer.sync_dispatch import SyncDispatcher
from balancer.sync_start import caller, start


class SyncUnaryUnary(UnaryUnary):
    """One request, one response."""

    def __init__(self, dispatcher: SyncDispatcher) -> None:
        self._dispatcher = dispatcher
        self._call = caller(dispatcher)

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The response. `timeout` in seconds. Raises RpcError; ValueError once closed."""
        return self._call(
            Rpc("__call__", request, timeout, metadata, credentials, wait_for_ready, compression),
        )

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
        return self._call(
            Rpc("with_call", request, timeout, metadata, credentials, wait_for_ready, compression),
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
        """The call, which is a grpc.Future of the response. Raises ValueError once closed."""
        return start(
            self._dispatcher,
            Rpc("future", request, timeout, metadata, credentials, wait_for_ready, compression),
        )


class SyncUnaryStream(UnaryStream):
    """One request, a stream of responses."""

    def __init__(self, dispatcher: SyncDispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The call, an iterator of responses. Raises ValueError once closed."""
        return start(
            self._dispatcher,
            Rpc("__call__", request, timeout, metadata, credentials, wait_for_ready, compression),
        )


class SyncStreamUnary(StreamUnary):
    """A stream of requests, one response."""

    def __init__(self, dispatcher: SyncDispatcher) -> None:
        self._dispatcher = dispatcher
        self._call = caller(dispatcher)

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The response. `timeout` in seconds. Raises RpcError; ValueError once closed."""
        return self._call(
            Rpc(
                "__call__",
                request_iterator,
                timeout,
                metadata,
                credentials,
                wait_for_ready,
                compression,
            ),
        )

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
        return self._call(
            Rpc(
                "with_call",
                request_iterator,
                timeout,
                metadata,
                credentials,
                wait_for_ready,
                compression,
            ),
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
        """The call, which is a grpc.Future of the response. Raises ValueError once closed."""
        return start(
            self._dispatcher,
            Rpc(
                "future",
                request_iterator,
                timeout,
                metadata,
                credentials,
                wait_for_ready,
                compression,
            ),
        )


class SyncStreamStream(StreamStream):
    """A stream of requests, a stream of responses."""

    def __init__(self, dispatcher: SyncDispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: MetadataType | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """The call, an iterator of responses. Raises ValueError once closed."""
        return start(
            self._dispatcher,
            Rpc(
                "__call__",
                request_iterator,
                timeout,
                metadata,
                credentials,
                wait_for_ready,
                compression,
            ),
        )
