"""The way to etcd: connections, deadlines and what a failure means; no messages.

Every call carries `hasleader`: a member that lost its leader then ends the call instead
of leaving us on a watch that will never speak (etcd clientv3.WithRequireLeader).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

import grpc
import grpc.aio

from discovery.etcd_types import (
    CompactedError,
    EtcdError,
    LeaseNotFoundError,
    RejectedError,
    ResourceExhaustedError,
    StoreRolledBackError,
    UnavailableError,
)

MAX_ENDPOINTS: Final = 16
_HAS_LEADER = (("hasleader", "true"),)
_ETCD_MIN_PING_S: Final = 5.0
_FIRST_RECONNECT_MS: Final = 100

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


@dataclass(frozen=True, slots=True)
class Method(Generic[_Request, _Reply]):
    """One RPC: its path, and how its messages become bytes and back."""

    path: str
    encode: Callable[[_Request], bytes]
    decode: Callable[[bytes], _Reply]


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdClientConfig:
    """Limits of an EtcdClient; raises ValueError on nonsense.

    `request_timeout_s` bounds each unary call and the opening of each stream.
    `page_size` is the number of keys asked for at once. A connection that is silent for
    `ping_after_s` is pinged, and dropped after `ping_timeout_s` without an answer.
    """

    request_timeout_s: float = 3.0
    page_size: int = 1000
    connect_timeout_s: float = 3.0
    reconnect_backoff_max_s: float = 2.0
    ping_after_s: float = 10.0
    ping_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if self.page_size < 1:
            raise ValueError("page_size must be at least 1")
        for name in _INTERVALS:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite")
        # etcd closes connections that ping more often (--grpc-keepalive-min-time).
        if self.ping_after_s < _ETCD_MIN_PING_S:
            raise ValueError(f"ping_after_s must be at least {_ETCD_MIN_PING_S}")

    def channel_options(self) -> list[tuple[str, int]]:
        """The same, as gRPC's channel arguments."""
        return [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", _ms(self.connect_timeout_s)),
            ("grpc.max_reconnect_backoff_ms", _ms(self.reconnect_backoff_max_s)),
            ("grpc.keepalive_time_ms", _ms(self.ping_after_s)),
            ("grpc.keepalive_timeout_ms", _ms(self.ping_timeout_s)),
        ]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


_INTERVALS = (
    "request_timeout_s",
    "connect_timeout_s",
    "reconnect_backoff_max_s",
    "ping_after_s",
    "ping_timeout_s",
)


def error_of(code: grpc.StatusCode, details: str) -> EtcdError:
    """What a failed call means."""
    message = f"{code.name}: {details}"
    if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
        return CompactedError(message)
    return _MEANINGS.get(code, RejectedError)(message)


_MEANINGS: dict[grpc.StatusCode, type[EtcdError]] = {
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
    # What gRPC makes of a connection reset in the middle of a call.
    grpc.StatusCode.INTERNAL: UnavailableError,
    grpc.StatusCode.UNKNOWN: UnavailableError,
    grpc.StatusCode.NOT_FOUND: LeaseNotFoundError,
    # "required revision is a future revision"
    grpc.StatusCode.OUT_OF_RANGE: StoreRolledBackError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
}


@asynccontextmanager
async def within(timeout_s: float) -> AsyncIterator[None]:
    """Bounds what stands in it; raises UnavailableError when the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise UnavailableError(f"no answer within {timeout_s:g} s") from None


class EtcdChannel:
    """One connection to the first of `endpoints` that answers.

    After a call that nobody answered, the next one goes to the next address. Opens
    nothing until used, and belongs to the event loop on which it is used first.

    Raises ValueError when `endpoints` is empty, too long or not made of addresses.
    """

    def __init__(self, endpoints: Sequence[str], config: EtcdClientConfig) -> None:
        self._addresses = _addresses(endpoints)
        self._config = config
        self._turn = 0
        self._channel: grpc.aio.Channel | None = None
        self._retired: set[asyncio.Task[None]] = set()
        self._closed = False

    async def call(self, method: Method[_Request, _Reply], request: _Request) -> _Reply:
        """One unary call, bounded by `request_timeout_s`. Raises EtcdError."""
        channel = self._current()
        timeout_s = self._config.request_timeout_s
        try:
            invoke = channel.unary_unary(
                method.path,
                request_serializer=method.encode,
                response_deserializer=method.decode,
            )
            return await invoke(request, timeout=timeout_s, metadata=_HAS_LEADER)
        except _FAILURES as failure:
            raise self._meaning(channel, failure) from None

    @asynccontextmanager
    async def stream(
        self, method: Method[_Request, _Reply]
    ) -> AsyncIterator[Stream[_Request, _Reply]]:
        """One bidirectional call, ended on leaving. Raises EtcdError.

        It has no deadline, being meant to last: who uses it bounds each exchange.
        """
        channel = self._current()
        try:
            invoke = channel.stream_stream(
                method.path,
                request_serializer=method.encode,
                response_deserializer=method.decode,
            )
            call = invoke(metadata=_HAS_LEADER)
        except _FAILURES as failure:
            raise self._meaning(channel, failure) from None
        stream = Stream[_Request, _Reply](call, lambda each: self._meaning(channel, each))
        try:
            yield stream
        finally:
            await stream.close()

    async def close(self) -> None:
        """Closes the connection; calls under way fail with UnavailableError."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()
        if self._retired:
            await asyncio.wait(self._retired)

    def _current(self) -> grpc.aio.Channel:
        if self._closed:
            raise UnavailableError("the client is closed")
        if self._channel is None:
            address = self._addresses[self._turn % len(self._addresses)]
            options = self._config.channel_options()
            self._channel = grpc.aio.insecure_channel(address, options=options)
        return self._channel

    def _meaning(self, channel: grpc.aio.Channel, failure: BaseException) -> EtcdError:
        error = _meaning(failure)
        if isinstance(error, UnavailableError):
            self._move_on(channel)
        return error

    def _move_on(self, channel: grpc.aio.Channel) -> None:
        # Whoever fails late on a channel already left behind must not skip the next.
        if channel is not self._channel or len(self._addresses) == 1 or self._closed:
            return
        self._turn += 1
        self._channel = None
        closing = asyncio.ensure_future(channel.close())
        self._retired.add(closing)
        closing.add_done_callback(self._retired.discard)


class Stream(Generic[_Request, _Reply]):
    """A bidirectional call that can be listened to for a while and then again.

    gRPC cancels the call when a read is cancelled, so the read is a task of its own
    that outlives whoever waits for it.
    """

    def __init__(self, call: Any, meaning: Callable[[BaseException], EtcdError]) -> None:
        self._call = call
        self._meaning = meaning
        self._reading: asyncio.Task[Any] | None = None

    async def send(self, request: _Request) -> None:
        """Sends one message. Raises EtcdError."""
        try:
            await self._call.write(request)
        except _FAILURES as failure:
            raise self._meaning(failure) from None

    async def receive(self, timeout_s: float | None) -> _Reply | None:
        """The next message, or None after `timeout_s` without one. Raises EtcdError."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait({self._reading}, timeout=timeout_s)
        if not done:
            return None
        reading, self._reading = self._reading, None
        try:
            reply = reading.result()
        except _FAILURES as failure:
            raise self._meaning(failure) from None
        if reply is grpc.aio.EOF:
            raise UnavailableError("etcd ended the stream")
        return cast("_Reply", reply)

    async def close(self) -> None:
        """Ends the call."""
        self._call.cancel()
        if self._reading is not None:
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                # Looked at, so that asyncio does not report it as forgotten.
                self._reading.exception()


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


def _addresses(endpoints: Sequence[str]) -> tuple[str, ...]:
    addresses = tuple(endpoint.removeprefix("http://").rstrip("/") for endpoint in endpoints)
    if not 1 <= len(addresses) <= MAX_ENDPOINTS:
        raise ValueError(f"1 to {MAX_ENDPOINTS} etcd endpoints are needed")
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if not (host and colon and port.isdecimal()) or "/" in address:
            raise ValueError(f"not an etcd endpoint (host:port): {address!r}")
    return addresses
