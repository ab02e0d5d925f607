"""Keeps what is known of one service in a file, and begins with it while etcd is away."""

from __future__ import annotations

import asyncio
from typing import Final

from discovery.backoff import Clock, Sleep
from discovery.cache_file import CacheFile
from discovery.endpoint import Endpoint, encode_key, encode_value
from discovery.entries import Changes, ServiceEntries
from discovery.etcd_types import KeyValue, Page
from discovery.service_view import ServiceView
from discovery.tasks import spawn

# Of a core: a list of ten thousand takes half a second to write down.
MAX_CACHE_SHARE: Final = 0.01
# Entries are cached only when they counted, so whether they had a lease is settled.
_SOME_LEASE = -1


class ServiceCache:
    """The file of `service`, written at most every `every_s`, in a thread."""

    def __init__(
        self, file: CacheFile, service: str, *, every_s: float, clock: Clock, sleep: Sleep
    ) -> None:
        self._file = file
        self._service = service
        self._every_s = every_s
        self._clock = clock
        self._sleep = sleep
        self._changed = asyncio.Event()
        self._recalled = False
        self._keeping: asyncio.Task[None] | None = None

    async def recall(self, entries: ServiceEntries) -> Changes | None:
        """Fills `entries` with what was kept, once; None when there is nothing."""
        if self._recalled:
            return None
        self._recalled = True
        kept = await asyncio.to_thread(self._file.load, self._service)
        if not kept:
            return None
        entries.begin_listing()
        listed = tuple(KeyValue(key, value, 0, _SOME_LEASE) for key, value in kept)
        entries.add_page(Page(0, listed))
        return entries.finish_listing()

    def changed(self, view: ServiceView) -> None:
        """There is something new to keep."""
        self._changed.set()
        if self._keeping is None:
            self._keeping = spawn(self._keep(view), f"cache of {self._service}")

    def close(self) -> None:
        """Keeps nothing more."""
        if self._keeping is not None:
            self._keeping.cancel()

    async def _keep(self, view: ServiceView) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            began_at = self._clock()
            # A list that is empty would help nobody to start.
            if endpoints := view.known(began_at):
                await asyncio.to_thread(self._save, endpoints)
            took_s = self._clock() - began_at
            await self._sleep(max(self._every_s, took_s / MAX_CACHE_SHARE))

    def _save(self, endpoints: tuple[Endpoint, ...]) -> None:
        entries = [(encode_key(self._service, each), encode_value(each)) for each in endpoints]
        self._file.save(self._service, entries)
