"""What callers see when a backend is slow, and what backends see when all of them fail.

The method stands in `bench.balancer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc.aio

import balancer
from bench.echo import METHOD, REFUSE, WAIT, Fleet
from bench.interleaved import Slice, compared, turns
from bench.stats import percentile
from bench.throughput import target_of

CONCURRENCY: Final = 8
TIMEOUT_S: Final = 10.0
WARM_UP_S: Final = 0.5

Unary = Callable[..., Awaitable[bytes]]


async def p99_of_slow_backend(addresses: list[str], slices: int, slice_s: float) -> dict[str, Any]:
    """The p99 of p2c_ewma over that of round_robin, when all wait and one waits longer."""
    unary: dict[str, Unary] = {}
    async with contextlib.AsyncExitStack() as stack:
        for side, policy in (("A", "round_robin"), ("B", "p2c_ewma")):
            channel = balancer.channel(target_of(addresses), policy=policy)
            await stack.enter_async_context(channel)
            await asyncio.wait_for(channel.channel_ready(), TIMEOUT_S)
            unary[side] = channel.unary_unary(METHOD)
            await _p99_s(unary[side], min(WARM_UP_S, slice_s))
        # As a slice, so that the ratio of B to A is that of the p99s.
        taken = [(side, Slice(await _p99_s(unary[side], slice_s), 1.0)) for side in turns(slices)]
    return compared(taken)


async def _p99_s(unary: Unary, slice_s: float) -> float:
    began_at = time.perf_counter()
    took_s: list[float] = []

    async def work() -> None:
        while (start := time.perf_counter()) - began_at < slice_s:
            await unary(WAIT, timeout=TIMEOUT_S)
            took_s.append(time.perf_counter() - start)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return percentile(took_s, 99)


async def attempts_per_call(servers: Fleet, calls: int) -> float:
    """Calls that the servers saw for each that was made, all of which they refused."""
    before = await servers.calls()
    async with balancer.channel(target_of(servers.addresses)) as channel:
        await asyncio.wait_for(channel.channel_ready(), TIMEOUT_S)
        unary: Unary = channel.unary_unary(METHOD)

        async def work() -> None:
            for _ in range(calls // CONCURRENCY):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await unary(REFUSE, timeout=TIMEOUT_S)

        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return round((await servers.calls() - before) / (calls // CONCURRENCY * CONCURRENCY), 4)
