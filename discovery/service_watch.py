"""Follows one service in etcd.

The rule is list, then watch what happens after the listing's revision. A watch whose connection
broke is resumed where it stood, once a fingerprint has shown that the store is still
the one that was listed; etcd's revisions alone cannot tell, since a store that lost its
data counts them anew. Whatever else ends a watch (compaction, cancel, a gap, refused
credentials) is answered by a new list, which is the whole truth and needs no reason. What
could go unnoticed is looked for: a silent watch is probed, since it may hang on a
connection that is dead, and every few minutes the service is listed again in any case.

The registry is off the data path: while etcd is away the last known good list stands,
with the reason in the state's `error`; a client that starts then begins with the list
that was kept in a file, where it was told to keep one.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from discovery.backoff import Clock, Sleep, retrying
from discovery.cache_file import CacheFile
from discovery.endpoint import service_prefix
from discovery.entries import Changes, EntryRules, ServiceEntries
from discovery.etcd_client import EtcdClient, Watch
from discovery.etcd_types import EtcdError, UnavailableError, WatchBatch
from discovery.listeners import ListenerSet
from discovery.removal import Removals
from discovery.reporter import Reporter
from discovery.resolver_config import EtcdResolverConfig
from discovery.service_cache import ServiceCache
from discovery.service_view import ServiceView
from discovery.tasks import spawn

_RELIST_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every watch of one resolver shares."""

    client: EtcdClient
    config: EtcdResolverConfig
    rules: EntryRules
    cache: CacheFile | None
    clock: Clock
    sleep: Sleep
    rng: random.Random


class ServiceWatch:
    """Follows `service` from construction to `end` and tells `listeners`."""

    def __init__(
        self, surroundings: Surroundings, service: str, on_empty: Callable[[], None]
    ) -> None:
        config, clock = surroundings.config, surroundings.clock
        self._around = surroundings
        self._prefix = service_prefix(service)
        self._entries = ServiceEntries(service, surroundings.rules)
        removals = Removals(config.removal_window_s, config.removal_grace_s)
        self.view = ServiceView(service, self._entries, removals)
        self.listeners = ListenerSet(on_empty)
        every_s = config.report_every_s
        self._reporter = Reporter(self.view, self.listeners, every_s=every_s, clock=clock)
        self._cache = _cache_of(surroundings, service)
        # Whether the watch may go on from the last event; until when it may.
        self._in_step = False
        self._relist_at = -math.inf
        self._watched_since = math.inf
        self._following = spawn(self._run(), f"watch of {service}")

    def end(self) -> asyncio.Task[None]:
        """Stops following; the returned task is done when etcd is no longer asked."""
        self._reporter.close()
        if self._cache is not None:
            self._cache.close()
        self._following.cancel()
        return self._following

    async def _run(self) -> None:
        retry = retrying(
            lambda error: isinstance(error, EtcdError),
            sleep=self._around.sleep,
            rng=self._around.rng,
        )
        while True:
            await retry(self._follow)

    async def _follow(self) -> None:
        """Gets in step and watches once. Raises EtcdError when that did not last."""
        self._watched_since = math.inf
        try:
            if not await self._can_resume():
                await self._list()
            await self._watch()
        except EtcdError as error:
            # Only a lost connection leaves what we know as it was.
            self._in_step = self._in_step and isinstance(error, UnavailableError)
            watched_s = self._around.clock() - self._watched_since
            if watched_s >= self._around.config.healthy_after_s:
                return
            await self._recall()
            self.view.error = str(error)
            self._reporter.soon()
            raise

    async def _can_resume(self) -> bool:
        if not self._in_step or self._around.clock() >= self._relist_at:
            return False
        fingerprint = await self._around.client.fingerprint(self._prefix, self._entries.revision)
        return self._entries.matches(fingerprint)

    async def _list(self) -> None:
        self._in_step = False
        self._entries.begin_listing()
        async for page in self._around.client.pages(self._prefix):
            self._entries.add_page(page)
        self._take(self._entries.finish_listing())
        self._in_step = True
        jitter = 1 - self._around.rng.uniform(0, _RELIST_JITTER)
        self._relist_at = self._around.clock() + self._around.config.relist_every_s * jitter

    async def _watch(self) -> None:
        """Watches until it is time for a new list. Raises EtcdError."""
        client, revision = self._around.client, self._entries.revision
        async with client.watch(self._prefix, after_revision=revision) as watch:
            self._watched_since = self._around.clock()
            self._is_well()
            while (left_s := self._relist_at - self._around.clock()) > 0:
                batch = await watch.next(min(left_s, self._around.config.probe_after_s))
                if batch is None:
                    batch = await self._probe(watch)
                if batch.events:
                    self._take(self._entries.apply(batch))

    async def _probe(self, watch: Watch) -> WatchBatch:
        await watch.request_progress()
        batch = await watch.next(self._around.config.probe_timeout_s)
        if batch is None:
            raise UnavailableError("the watch is silent and does not answer")
        return batch

    async def _recall(self) -> None:
        """Begins with what was kept, when etcd did not answer the first time."""
        if self._cache is None or self.view.resolved:
            return
        changes = await self._cache.recall(self._entries)
        if changes is not None:
            self.view.take(changes, self._around.clock())
            self.view.resolved = True

    def _take(self, changes: Changes) -> None:
        self.view.take(changes, self._around.clock())
        if self._cache is not None:
            self._cache.changed(self.view)
        self._is_well()

    def _is_well(self) -> None:
        self.view.resolved, self.view.error = True, None
        self._reporter.soon()


def _cache_of(around: Surroundings, service: str) -> ServiceCache | None:
    if around.cache is None:
        return None
    every_s = around.config.cache_every_s
    return ServiceCache(
        around.cache, service, every_s=every_s, clock=around.clock, sleep=around.sleep
    )
