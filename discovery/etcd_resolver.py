"""Finds endpoints in etcd: one watch per service, shared by all who listen to it.

How one service is followed stands in `discovery.service_watch`.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from discovery.backoff import Clock, Sleep
from discovery.cache_file import CacheFile
from discovery.entries import EntryRules
from discovery.etcd_client import EtcdClient
from discovery.resolver import Listener, Subscription
from discovery.resolver_config import EtcdResolverConfig
from discovery.service_watch import ServiceWatch, Surroundings

MAX_SERVICES: Final = 1000


class EtcdResolver:
    """A `discovery.resolver.Resolver` over etcd. Needs a running event loop."""

    def __init__(
        self,
        client: EtcdClient,
        *,
        config: EtcdResolverConfig | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        config = config or EtcdResolverConfig()
        loopback = config.accept_loopback
        self._surroundings = Surroundings(
            client=client,
            config=config,
            rules=EntryRules(
                accept_loopback=client.local if loopback is None else loopback,
                accept_leaseless=config.accept_leaseless,
            ),
            cache=None if config.cache_dir is None else CacheFile(config.cache_dir),
            clock=clock,
            sleep=sleep,
            rng=rng or random.Random(),  # noqa: S311 - jitter, not secrets
        )
        self._skipped_before = 0
        self._leaseless_before = 0
        self._services: dict[str, ServiceWatch] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def skipped_total(self) -> int:
        """How many entries were skipped so far, being malformed, hostile or too many."""
        now = sum(watch.view.skipped_total for watch in self._services.values())
        return self._skipped_before + now

    @property
    def leaseless_total(self) -> int:
        """How many entries without a lease were taken so far."""
        now = sum(watch.view.leaseless_total for watch in self._services.values())
        return self._leaseless_before + now

    def subscribe(self, service: str, listener: Listener) -> Subscription:
        """Reports the state of `service` to `listener`, from now on.

        Raises InvalidServiceNameError, ValueError beyond MAX_SERVICES, RuntimeError
        after `close`.
        """
        if self._closed:
            raise RuntimeError("the resolver is closed")
        return self._watch_of(service).listeners.add(listener)

    async def close(self) -> None:
        """Ends every subscription and watch. The client stays open: it is the caller's."""
        self._closed = True
        for service in tuple(self._services):
            self._services[service].listeners.close()
            self._end(service)
        if self._ending:
            await asyncio.wait(self._ending)

    def _watch_of(self, service: str) -> ServiceWatch:
        watch = self._services.get(service)
        if watch is None:
            if len(self._services) >= MAX_SERVICES:
                raise ValueError(f"more than {MAX_SERVICES} services")
            watch = ServiceWatch(self._surroundings, service, lambda: self._end(service))
            self._services[service] = watch
        return watch

    def _end(self, service: str) -> None:
        watch = self._services.pop(service)
        self._skipped_before += watch.view.skipped_total
        self._leaseless_before += watch.view.leaseless_total
        ending = watch.end()
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
