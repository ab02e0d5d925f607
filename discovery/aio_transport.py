"""etcd over a grpc.aio.Channel: for programs that live on an event loop."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import grpc.aio

from discovery.etcd_config import EtcdClientConfig, EtcdEndpoint, EtcdTls
from discovery.etcd_types import EtcdError, UnavailableError
from discovery.transport import MAX_UNREAD_REPLIES, Inbox, Metadata, Method, error_of

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


def connect(endpoint: EtcdEndpoint, config: EtcdClientConfig) -> AioTransport:
    """A connection to `endpoint`, made when it is used. Raises OSError, ValueError."""
    options = config.channel_options()
    if not endpoint.encrypted:
        return AioTransport(grpc.aio.insecure_channel(endpoint.address, options=options))
    credentials = (config.tls or EtcdTls()).credentials()
    return AioTransport(grpc.aio.secure_channel(endpoint.address, credentials, options=options))


class AioTransport:
    """A `discovery.transport.Transport` on `channel`, which it closes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def call(
        self,
        method: Method[_Request, _Reply],
        request: _Request,
        *,
        timeout_s: float,
        metadata: Metadata,
        patient: bool,
    ) -> _Reply:
        """As Transport."""
        try:
            invoke = self._channel.unary_unary(
                method.path,
                request_serializer=method.encode,
                response_deserializer=method.decode,
            )
            return await invoke(
                request, timeout=timeout_s, metadata=metadata, wait_for_ready=patient
            )
        except _FAILURES as failure:
            raise _meaning(failure) from None

    def stream(self, method: Method[Any, Any], *, metadata: Metadata, patient: bool) -> AioStream:
        """As Transport."""
        try:
            invoke = self._channel.stream_stream(
                method.path,
                request_serializer=method.encode,
                response_deserializer=method.decode,
            )
            return AioStream(invoke(metadata=metadata, wait_for_ready=patient))
        except _FAILURES as failure:
            raise _meaning(failure) from None

    async def close(self) -> None:
        """As Transport."""
        await self._channel.close()


class AioStream:
    """A `discovery.transport.Stream`.

    gRPC cancels the call when a read is cancelled, so one task reads, and whoever waits
    for a reply may stop waiting.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._inbox = Inbox()
        self._room = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    async def send(self, request: Any) -> None:
        """As Stream."""
        try:
            await self._call.write(request)
        except _FAILURES as failure:
            raise _meaning(failure) from None

    async def receive(self, timeout_s: float | None) -> Any:
        """As Stream."""
        reply = await self._inbox.take(timeout_s)
        self._room.set()
        return reply

    async def close(self) -> None:
        """As Stream."""
        self._call.cancel()
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def _read(self) -> None:
        try:
            while (reply := await self._call.read()) is not grpc.aio.EOF:
                self._inbox.put(reply)
                while len(self._inbox) >= MAX_UNREAD_REPLIES:
                    self._room.clear()
                    await self._room.wait()
            self._inbox.put(UnavailableError("etcd ended the stream"))
        except _FAILURES as failure:
            self._inbox.put(_meaning(failure))


_FAILURES = (
    grpc.aio.AioRpcError,
    grpc.aio.UsageError,
    asyncio.InvalidStateError,
    asyncio.CancelledError,
)


def _meaning(failure: BaseException) -> EtcdError:
    """What a failed call means to us; raises it again when it is our own task's cancellation."""
    if isinstance(failure, grpc.aio.AioRpcError):
        return error_of(failure.code(), failure.details() or "")
    task = asyncio.current_task()
    if isinstance(failure, asyncio.CancelledError) and task is not None and task.cancelling():
        raise failure
    # A channel closed under a call cancels it: the call ended, not the caller.
    return UnavailableError("the connection was closed")
