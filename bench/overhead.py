"""Microseconds of CPU that a channel adds to a call, with no network in the way.

The method stands in `bench.balancer`. Here is the network that is not one: a channel of either
kind that is READY at once, of which every call has ended before it is awaited or returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, Final
from unittest import mock

import grpc
import grpc.aio
from grpc import ChannelConnectivity

import balancer
from balancer import ChannelConfig
from bench.echo import METHOD, REQUEST
from bench.interleaved import Slice, turns

ENDPOINTS: Final = 3
_SERVING: Final = b"\x08\x01"
_TIMEOUT_S: Final = 10.0
_DIGITS: Final = 2
_NO_METADATA: Final = grpc.aio.Metadata()
_READY: Final[int] = ChannelConnectivity.READY.value[0]


class FakeCall(grpc.aio.Call):
    """A call that has ended with OK and the request for an answer."""

    def __init__(self, response: bytes) -> None:
        self._response = response

    def __await__(self) -> Generator[Any, None, bytes]:
        yield from ()
        return self._response

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls it at once: this is the end."""
        callback(self)

    def done(self) -> bool:
        """Always."""
        return True

    def cancelled(self) -> bool:
        """Never."""
        return False

    def cancel(self) -> bool:
        """Too late."""
        return False

    def time_remaining(self) -> float | None:
        """Nothing is left to do."""
        return None

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """None was sent."""
        return _NO_METADATA

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """None was sent."""
        return _NO_METADATA

    async def code(self) -> grpc.StatusCode:
        """OK."""
        return grpc.StatusCode.OK

    async def details(self) -> str:
        """Nothing to say."""
        return ""

    async def wait_for_connection(self) -> None:
        """It is there."""


class FakeHealthStream:
    """Says SERVING once and is silent then."""

    def __init__(self) -> None:
        self._replies = iter([_SERVING])

    async def read(self) -> bytes:
        """The next reply."""
        for reply in self._replies:
            return reply
        await asyncio.Event().wait()
        return b""

    def cancel(self) -> bool:
        """Nobody to tell."""
        return True


class FakeChannel:
    """READY, whatever one calls."""

    def __init__(self, *_: object) -> None:
        self._never = asyncio.Event()

    def get_state(self, try_to_connect: bool = False) -> ChannelConnectivity:  # noqa: ARG002 - grpc's
        """READY."""
        return ChannelConnectivity.READY

    async def wait_for_state_change(self, _last: ChannelConnectivity) -> None:
        """It does not change."""
        await self._never.wait()

    def unary_unary(self, *_: object, **__: object) -> Callable[..., FakeCall]:
        """A multicallable of calls that have ended."""

        def call(request: bytes, **_: object) -> FakeCall:
            return FakeCall(request)

        return call

    def unary_stream(self, *_: object, **__: object) -> Callable[..., FakeHealthStream]:
        """Health is all that is asked for so."""

        def call(_request: bytes, **_: object) -> FakeHealthStream:
            return FakeHealthStream()

        return call

    async def close(self, _grace: float | None = None) -> None:
        """Nothing to close."""


class FakeCore:
    """What lies beneath a grpc.Channel."""

    def check_connectivity_state(self, try_to_connect: bool) -> int:  # noqa: ARG002 - grpc's
        """READY, as gRPC numbers it."""
        return _READY


class FakeSyncChannel:
    """As FakeChannel, for threads."""

    def __init__(self, *_: object) -> None:
        self._channel = FakeCore()

    def unary_unary(self, *_: object, **__: object) -> FakeSyncUnary:
        """A multicallable of calls that have ended."""
        return FakeSyncUnary()

    def close(self) -> None:
        """Nothing to close."""


class FakeSyncUnary:
    """Answers with the request, as the multicallable of a grpc.Channel would."""

    def __call__(
        self,
        request: bytes,
        timeout: float | None = None,  # noqa: ARG002 - grpc's
        *_: object,
    ) -> bytes:
        """At once."""
        return request


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    """Channels made in here are fake."""
    with (
        mock.patch.object(grpc.aio, "insecure_channel", FakeChannel),
        mock.patch.object(grpc, "insecure_channel", FakeSyncChannel),
    ):
        yield


async def added_us(config: ChannelConfig, slices: int, calls: int) -> dict[str, float]:
    """CPU microseconds of a call through the channel less those of one without."""
    bare: Any = FakeChannel().unary_unary(METHOD)
    with no_network():
        async with _fake_fleet(config) as unary:
            sides = {"A": bare, "B": unary}
            for call in sides.values():
                await _cpu_slice(call, calls)
            taken = [(side, await _cpu_slice(sides[side], calls)) for side in turns(slices)]
    return _added(taken)


def added_us_sync(config: ChannelConfig, slices: int, calls: int) -> dict[str, float]:
    """The same for `balancer.sync_channel`, in one thread."""
    with no_network(), balancer.sync_channel(_target(), config=config) as channel:
        grpc.channel_ready_future(channel).result(_TIMEOUT_S)
        sides: dict[str, Any] = {"A": FakeSyncUnary(), "B": channel.unary_unary(METHOD)}
        for call in sides.values():
            _cpu_slice_sync(call, calls)
        return _added([(side, _cpu_slice_sync(sides[side], calls)) for side in turns(slices)])


def _added(taken: list[tuple[str, Slice]]) -> dict[str, float]:
    # CPU time has no noise but what is on top: the least is the nearest to the truth.
    least_us = {
        side: min(1e6 * each.cost / each.amount for name, each in taken if name == side)
        for side in "AB"
    }
    return {
        "added_us": round(_median_us("B", taken) - _median_us("A", taken), _DIGITS),
        "least_added_us": round(least_us["B"] - least_us["A"], _DIGITS),
        "bare_us": round(_median_us("A", taken), _DIGITS),
    }


@contextlib.asynccontextmanager
async def _fake_fleet(config: ChannelConfig) -> AsyncIterator[Callable[..., Awaitable[bytes]]]:
    async with balancer.channel(_target(), config=config) as channel:
        await asyncio.wait_for(channel.channel_ready(), _TIMEOUT_S)
        unary: Any = channel.unary_unary(METHOD)
        yield unary


def _target() -> str:
    return "static:///" + ",".join(f"127.0.0.1:{port}" for port in range(1, ENDPOINTS + 1))


def _cpu_slice_sync(call: Callable[..., bytes], calls: int) -> Slice:
    # Of this thread only: the channel's own does nothing for a call.
    began_at = time.thread_time()
    for _ in itertools.repeat(None, calls):
        call(REQUEST, timeout=_TIMEOUT_S)
    return Slice(calls, time.thread_time() - began_at)


async def _cpu_slice(call: Callable[..., Awaitable[bytes]], calls: int) -> Slice:
    began_at = time.process_time()
    for _ in itertools.repeat(None, calls):
        await call(REQUEST, timeout=_TIMEOUT_S)
    return Slice(calls, time.process_time() - began_at)


def _median_us(side: str, taken: list[tuple[str, Slice]]) -> float:
    ordered = sorted(1e6 * each.cost / each.amount for name, each in taken if name == side)
    return ordered[len(ordered) // 2]
