"""etcd over a blocking grpc.Channel: for threaded programs, and for channels of others.

Used from an event loop like the other transport; what blocks is left to gRPC's threads
and, per stream, one of ours that reads. A program can so run discovery on a loop in a
background thread without grpc.aio, whose pollers disturb each other when several
threads of a process have a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import Any, Final, TypeVar

import grpc

from discovery.etcd_config import EtcdClientConfig, EtcdEndpoint, EtcdTls
from discovery.etcd_types import EtcdError, UnavailableError
from discovery.transport import MAX_UNREAD_REPLIES, Inbox, Metadata, Method, error_of

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


def connect(endpoint: EtcdEndpoint, config: EtcdClientConfig) -> SyncTransport:
    """A connection to `endpoint`, made when it is used. Raises OSError, ValueError."""
    options = config.channel_options()
    if not endpoint.encrypted:
        return SyncTransport(grpc.insecure_channel(endpoint.address, options=options))
    credentials = (config.tls or EtcdTls()).credentials()
    return SyncTransport(grpc.secure_channel(endpoint.address, credentials, options=options))


class SyncTransport:
    """A `discovery.transport.Transport` on `channel`.

    `metadata` goes with every call. A channel that is not `owned` stays open.
    """

    def __init__(
        self, channel: grpc.Channel, *, metadata: Metadata = (), owned: bool = True
    ) -> None:
        self._channel = channel
        self._metadata = metadata
        self._owned = owned

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
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        with _failures():
            call = self._channel.unary_unary(
                method.path,
                request_serializer=method.encode,
                response_deserializer=method.decode,
            ).future(
                request,
                timeout=timeout_s,
                metadata=self._metadata + metadata,
                wait_for_ready=patient,
            )
        call.add_done_callback(lambda _: _tell(loop, done.set))
        try:
            await done.wait()
        finally:
            call.cancel()
        with _failures():
            return call.result()

    def stream(self, method: Method[Any, Any], *, metadata: Metadata, patient: bool) -> SyncStream:
        """As Transport."""
        with _failures():
            invoke = self._channel.stream_stream(
                method.path,
                request_serializer=method.encode,
                response_deserializer=method.decode,
            )
            return SyncStream(invoke, self._metadata + metadata, patient)

    async def close(self) -> None:
        """As Transport."""
        if self._owned:
            # It waits for gRPC's threads.
            await asyncio.to_thread(self._channel.close)


class SyncStream:
    """A `discovery.transport.Stream`."""

    def __init__(self, invoke: Any, metadata: Metadata, patient: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._inbox = Inbox()
        self._room = threading.Semaphore(MAX_UNREAD_REPLIES)
        requests = iter(self._requests.get, _END)
        self._call = invoke(requests, metadata=metadata, wait_for_ready=patient)
        threading.Thread(target=self._read, name="etcd stream", daemon=True).start()

    async def send(self, request: Any) -> None:
        """As Stream."""
        self._requests.put(request)

    async def receive(self, timeout_s: float | None) -> Any:
        """As Stream."""
        reply = await self._inbox.take(timeout_s)
        if reply is not None:
            self._room.release()
        return reply

    async def close(self) -> None:
        """As Stream."""
        self._requests.put(_END)
        self._call.cancel()
        # A reader that waits for room finds it, and then the end.
        self._room.release(MAX_UNREAD_REPLIES)

    def _read(self) -> None:
        try:
            for reply in self._call:
                self._room.acquire()
                _tell(self._loop, self._inbox.put, reply)
            failure: EtcdError = UnavailableError("etcd ended the stream")
        except grpc.RpcError as error:
            failure = _meaning(error)
        self._requests.put(_END)
        _tell(self._loop, self._inbox.put, failure)


_END: Final = object()


def _tell(loop: asyncio.AbstractEventLoop, *what: Any) -> None:
    # A loop that is closed has nobody left to tell.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(*what)


@contextlib.contextmanager
def _failures() -> Any:
    """Turns what gRPC raises into EtcdError."""
    try:
        yield
    except (grpc.RpcError, grpc.FutureCancelledError) as error:
        raise _meaning(error) from None
    except ValueError as error:
        # What grpc.Channel raises when it is closed.
        raise UnavailableError(str(error)) from None


def _meaning(error: Any) -> EtcdError:
    if isinstance(error, grpc.Call):
        return error_of(error.code(), error.details() or "")
    return UnavailableError("the connection was closed")
