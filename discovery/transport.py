"""The seam between what we say to etcd and whatever carries it.

A transport is one connection: a grpc.aio.Channel (`discovery.aio_transport`) or a blocking
grpc.Channel (`discovery.sync_transport`), which may belong to somebody else. What to
say, to whom, with which token and what to do about a failure is decided above it, once.
Both kinds are used from an event loop, and both fail with `discovery.etcd_types` only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import grpc

from discovery.etcd_types import (
    CompactedError,
    EtcdError,
    LeaseNotFoundError,
    PermissionDeniedError,
    RejectedError,
    ResourceExhaustedError,
    StoreRolledBackError,
    UnauthenticatedError,
    UnavailableError,
)

# Replies read and not yet taken; beyond it the stream's flow control holds etcd back.
MAX_UNREAD_REPLIES: Final = 64

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


@dataclass(frozen=True, slots=True)
class Method(Generic[_Request, _Reply]):
    """One RPC: its path, and how its messages become bytes and back."""

    path: str
    encode: Callable[[_Request], bytes]
    decode: Callable[[bytes], _Reply]


class Stream(Protocol):
    """A bidirectional call that can be listened to for a while and then again."""

    async def send(self, request: Any) -> None:
        """Sends one message. Raises EtcdError."""

    async def receive(self, timeout_s: float | None) -> Any:
        """The next message, or None after `timeout_s` without one. Raises EtcdError."""

    async def close(self) -> None:
        """Ends the call."""


class Transport(Protocol):
    """One connection to etcd."""

    async def call(
        self,
        method: Method[_Request, _Reply],
        request: _Request,
        *,
        timeout_s: float,
        metadata: Metadata,
        patient: bool,
    ) -> _Reply:
        """One unary call. Raises EtcdError.

        A `patient` one waits for a connection, within its time (gRPC's wait-for-ready).
        """

    def stream(self, method: Method[Any, Any], *, metadata: Metadata, patient: bool) -> Stream:
        """Opens a bidirectional call, without a deadline. Raises EtcdError."""

    async def close(self) -> None:
        """Closes the connection; calls under way fail with UnavailableError."""


class Inbox:
    """What a stream has received and nobody has taken; for one taker, on one loop.

    Ends with the error that was put last, which whoever asks again is told again.
    """

    def __init__(self) -> None:
        self._replies: deque[Any] = deque()
        self._failure: EtcdError | None = None
        self._waiting: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._replies)

    def put(self, reply: Any) -> None:
        """Adds a reply, or the EtcdError after which there is no more."""
        if isinstance(reply, EtcdError):
            self._failure = reply
        else:
            self._replies.append(reply)
        self._wake()

    async def take(self, timeout_s: float | None) -> Any:
        """The next reply, or None after `timeout_s` without one. Raises EtcdError."""
        if not self._replies and self._failure is None:
            await self._news(timeout_s)
        if self._replies:
            return self._replies.popleft()
        if self._failure is not None:
            # A traceback would grow with each raising of the one exception.
            raise self._failure.with_traceback(None)
        return None

    async def _news(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        # Cheaper than a task and asyncio.wait, and this is the path of every event.
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


@asynccontextmanager
async def within(timeout_s: float) -> AsyncIterator[None]:
    """Bounds what stands in it; raises UnavailableError when the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise UnavailableError(f"no answer within {timeout_s:g} s") from None


def error_of(code: grpc.StatusCode, details: str) -> EtcdError:
    """What a failed call means."""
    message = f"{code.name}: {details}"
    if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
        return CompactedError(message)
    if code in _SPEAKING and (said := refusal_of(details)) is not RejectedError:
        return said(message)
    return _MEANINGS.get(code, RejectedError)(message)


def refusal_of(reason: str) -> type[EtcdError]:
    """What etcd's own words mean, where it gives no code (a cancelled watch) or a vague one.

    The words are those of etcd's api/v3rpc/rpctypes, which its clients compare too.
    """
    for words, meaning in _WORDS:
        if words in reason:
            return meaning
    return RejectedError


_WORDS: tuple[tuple[str, type[EtcdError]], ...] = (
    ("invalid auth token", UnauthenticatedError),
    ("revision of auth store is old", UnauthenticatedError),
    ("user name is empty", UnauthenticatedError),
    ("authentication failed", UnauthenticatedError),
    ("permission denied", PermissionDeniedError),
    ("no leader", UnavailableError),
)
_SPEAKING = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
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
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
}
