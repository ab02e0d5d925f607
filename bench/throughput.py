"""Calls per second through a channel, against channels that do not balance.

The method stands in `bench.balancer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

import balancer
from balancer import ChannelConfig
from balancer.sync_channel import sync_channel
from bench.echo import METHOD, REQUEST
from bench.interleaved import Slice, b_over_a

CONCURRENCY: Final = 16
TIMEOUT_S: Final = 10.0
WARM_UP_CALLS: Final = 30

_ROUND_ROBIN: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
# Every channel has connections of its own, or one side would run on the other's.
_OWN_CONNECTIONS: Final = ("grpc.use_local_subchannel_pool", 1)

AioCall = Callable[[], Awaitable[bytes]]
SyncCall = Callable[[], bytes]


async def aio_slice(call: AioCall, slice_s: float) -> Slice:
    """As many calls as end when CONCURRENCY coroutines make them for `slice_s`."""
    began_at = time.perf_counter()
    done = 0

    async def work() -> None:
        nonlocal done
        while time.perf_counter() - began_at < slice_s:
            await call()
            done += 1

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return Slice(done, time.perf_counter() - began_at)


async def sync_slice(call: SyncCall, slice_s: float) -> Slice:
    """As many calls as end when CONCURRENCY threads make them for `slice_s`."""
    began_at = time.perf_counter()
    done: list[int] = []

    def work() -> None:
        mine = 0
        while time.perf_counter() - began_at < slice_s:
            call()
            mine += 1
        done.append(mine)

    threads = [threading.Thread(target=work) for _ in range(CONCURRENCY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        # The loop has nothing else to do meanwhile, and no thread needs it.
        thread.join()
    return Slice(sum(done), time.perf_counter() - began_at)


@contextlib.asynccontextmanager
async def plain(addresses: list[str]) -> AsyncIterator[AioCall]:
    """One grpc.aio channel to each, which the caller takes in turn."""
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, [_OWN_CONNECTIONS]))
            for address in addresses
        ]
        turn = itertools.cycle([_unary(channel) for channel in channels])
        call: AioCall = lambda: next(turn)(REQUEST, timeout=TIMEOUT_S)  # noqa: E731 - as the others
        yield await _warm(call)


@contextlib.asynccontextmanager
async def round_robin(addresses: list[str]) -> AsyncIterator[AioCall]:
    """GRPC's own round_robin over a list that never changes."""
    options = [_OWN_CONNECTIONS, ("grpc.service_config", _ROUND_ROBIN)]
    async with grpc.aio.insecure_channel(f"ipv4:{','.join(addresses)}", options) as channel:
        await asyncio.wait_for(channel.channel_ready(), TIMEOUT_S)
        unary = _unary(channel)
        yield await _warm(lambda: unary(REQUEST, timeout=TIMEOUT_S))


@contextlib.asynccontextmanager
async def balanced(
    addresses: list[str], config: ChannelConfig | None = None
) -> AsyncIterator[AioCall]:
    """A channel of ours."""
    async with balancer.channel(target_of(addresses), config=config or ChannelConfig()) as channel:
        await asyncio.wait_for(channel.channel_ready(), TIMEOUT_S)
        unary = _unary(channel)
        yield await _warm(lambda: unary(REQUEST, timeout=TIMEOUT_S))


async def _warm(call: AioCall) -> AioCall:
    for _ in range(WARM_UP_CALLS):
        await call()
    return call


Side = Callable[[list[str]], contextlib.AbstractAsyncContextManager[AioCall]]


async def aio_ratio(
    addresses: list[str], a: Side, b: Side, slices: int, slice_s: float
) -> dict[str, Any]:
    """Calls per second of `b` over those of `a`."""
    async with a(addresses) as call_a, b(addresses) as call_b:
        return await b_over_a(
            lambda: aio_slice(call_a, slice_s), lambda: aio_slice(call_b, slice_s), slices
        )


async def sync_ratio(addresses: list[str], slices: int, slice_s: float) -> dict[str, Any]:
    """Calls per second of a sync channel of ours over those of plain ones in turn."""
    with contextlib.ExitStack() as stack:
        plain_call = _sync_plain(stack, addresses)
        our_call = _sync_call(stack.enter_context(sync_channel(target_of(addresses))))
        return await b_over_a(
            lambda: sync_slice(plain_call, slice_s), lambda: sync_slice(our_call, slice_s), slices
        )


def _sync_plain(stack: contextlib.ExitStack, addresses: list[str]) -> SyncCall:
    channels = [
        stack.enter_context(grpc.insecure_channel(address, [_OWN_CONNECTIONS]))
        for address in addresses
    ]
    turn = itertools.cycle([_unary(channel) for channel in channels])
    return lambda: next(turn)(REQUEST, timeout=TIMEOUT_S)


def _sync_call(channel: grpc.Channel) -> SyncCall:
    grpc.channel_ready_future(channel).result(TIMEOUT_S)
    unary = _unary(channel)
    return lambda: unary(REQUEST, timeout=TIMEOUT_S)


def _unary(channel: Any) -> Any:
    return channel.unary_unary(METHOD)


def target_of(addresses: list[str]) -> str:
    """These, for `balancer.channel`."""
    return "static:///" + ",".join(addresses)
