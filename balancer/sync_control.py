"""What a channel for threads does off the path of calls: one event loop in one thread.

The pool, the resolver's subscription and the watching of connections are the asyncio code
that the aio channel has, and run here. The threads that call see of it the attributes of
`pool`, which are replaced whole, and are woken by `changes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import grpc

from balancer.config import ChannelConfig
from balancer.metrics import NO_METRICS, ChannelMetrics
from balancer.policy import Policy
from balancer.pool import Pool
from balancer.sync_link import post
from balancer.sync_subchannel import SyncSubchannel
from discovery.loop_thread import LoopThread
from discovery.resolver import Resolver, ResolverState, Subscription
from discovery.sync import SyncResolver
from discovery.target import Target


class ControlPlane:
    """Keeps `pool` as the resolver has it until `close`.

    `on_change` is called in the loop's thread after every change of the pool.
    """

    def __init__(
        self,
        target: Target,
        *,
        resolver: Resolver | SyncResolver,
        policy: Policy,
        config: ChannelConfig,
        credentials: grpc.ChannelCredentials | None,
        on_change: Callable[[], None],
        rng: random.Random,
        metrics: ChannelMetrics = NO_METRICS,
    ) -> None:
        self._thread = LoopThread("tallystick balancer")
        self._following: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        self._is_threaded = isinstance(resolver, SyncResolver)

        async def open_pool() -> tuple[Pool, asyncio.AbstractEventLoop]:
            pool = Pool(
                str(target),
                policy,
                config,
                lambda endpoint, changed, may_connect: SyncSubchannel(
                    endpoint,
                    config,
                    credentials,
                    changed,
                    metrics.endpoint(endpoint.address),
                    may_connect,
                ),
                rng,
            )
            loop = asyncio.get_running_loop()
            self._following = loop.create_task(_follow(pool, on_change))
            return pool, loop

        self.pool, self._loop = self._thread.run(open_pool)
        try:
            self._subscription = self._subscribe(resolver, target.service)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancels every call, closes every connection and ends the thread. May be repeated."""
        if self._is_threaded and self._subscription is not None:
            self._subscription.close()
        self._thread.close(self._close)

    def _subscribe(self, resolver: Resolver | SyncResolver, service: str) -> Subscription:
        def listen(state: ResolverState) -> None:
            post(self._loop, lambda: self.pool.update(state))

        async def subscribe() -> Subscription:
            return resolver.subscribe(service, listen)

        # One that blocks must not do so on the loop; any other belongs to a loop.
        if self._is_threaded:
            return resolver.subscribe(service, listen)
        return self._thread.run(subscribe)

    async def _close(self) -> None:
        if self._subscription is not None and not self._is_threaded:
            self._subscription.close()
        await self.pool.close(0.0)
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following


async def _follow(pool: Pool, on_change: Callable[[], None]) -> None:
    while True:
        await pool.changed()
        on_change()
