"""Calls of coroutines that wait for a connection: how many, until when.

What `balancer.sync_waiting` is to threads. Each is placed by a task of its own.
"""

from __future__ import annotations

import asyncio

import grpc.aio

from balancer.metrics import NO_METRICS, ChannelMetrics


class Waiting:
    """The calls of a channel that wait for a connection, at most `limit`."""

    def __init__(self, limit: int, metrics: ChannelMetrics = NO_METRICS) -> None:
        self.limit = limit
        self.closed = False
        self._metrics = metrics
        self._calls: dict[grpc.aio.Call, asyncio.Task[None]] = {}

    def is_full(self) -> bool:
        """Whether one more would be too many."""
        return len(self._calls) >= self.limit

    def add(self, call: grpc.aio.Call, task: asyncio.Task[None]) -> None:
        """Holds `call` until `task`, which places it, is done."""
        self._calls[call] = task
        self._metrics.wait_began()
        task.add_done_callback(lambda _: self._no_longer(call))

    def __len__(self) -> int:
        return len(self._calls)

    def _no_longer(self, call: grpc.aio.Call) -> None:
        del self._calls[call]
        self._metrics.wait_ended()

    async def close(self, grace_s: float) -> None:
        """Refuses new calls, lets these find a connection for `grace_s`, cancels the rest."""
        self.closed = True
        calls = dict(self._calls)
        if calls and grace_s:
            await asyncio.wait(calls.values(), timeout=grace_s)
        for call, task in calls.items():
            if not task.done():
                call.cancel()
        await asyncio.gather(*calls.values(), return_exceptions=True)
