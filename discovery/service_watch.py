"""Follows one service in etcd.

The rule is list, then watch from the listing's revision + 1. Whatever ends a watch
(compaction, cancel, a lost connection, a store that went back in time) is answered by a
new list, which is the whole truth and needs no reason why the watch ended. What could
go unnoticed is looked for: a silent watch is probed, since it may hang on a connection
that is dead, and every few minutes the service is listed again in any case.

The registry is off the data path: while etcd is away the last known good list stands,
with the reason in the state's `error`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from discovery.backoff import Clock, Sleep, retrying
from discovery.endpoint import service_prefix
from discovery.entries import Malformed, ServiceEntries
from discovery.etcd_client import EtcdClient, Watch
from discovery.etcd_types import EtcdError, UnavailableError, WatchBatch
from discovery.listeners import ListenerSet
from discovery.resolver import ResolverState
from discovery.tasks import spawn

_MAX_LOGGED_CHARS = 200
_RELIST_JITTER = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdResolverConfig:
    """Intervals of an EtcdResolver; raises ValueError when one is not above 0.

    A full list is made every `relist_every_s`, less up to a tenth so that a fleet does
    not list in step. A watch silent for `probe_after_s` is probed and given up
    `probe_timeout_s` later. A watch that lasted `healthy_after_s` is replaced at once
    when it ends, a shorter one after a backoff. Listeners hear at most one state in
    `report_every_s`: when ten thousand endpoints come, not ten thousand lists.
    """

    relist_every_s: float = 300.0
    probe_after_s: float = 10.0
    probe_timeout_s: float = 5.0
    healthy_after_s: float = 5.0
    report_every_s: float = 0.02

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every watch of one resolver shares."""

    client: EtcdClient
    config: EtcdResolverConfig
    clock: Clock
    sleep: Sleep
    rng: random.Random


class ServiceWatch:
    """Follows `service` from construction to `end` and tells `listeners`."""

    def __init__(
        self, surroundings: Surroundings, service: str, on_empty: Callable[[], None]
    ) -> None:
        self.listeners = ListenerSet(on_empty)
        self.malformed_total = 0
        self._around = surroundings
        self._prefix = service_prefix(service)
        self._entries = ServiceEntries(service)
        self._resolved = False
        self._error: str | None = None
        self._reported_at = -math.inf
        self._report: asyncio.TimerHandle | None = None
        self._following = spawn(self._run(), f"watch of {service}")

    def end(self) -> asyncio.Task[None]:
        """Stops following; the returned task is done when all is released."""
        if self._report is not None:
            self._report.cancel()
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
        """Lists and watches once. Raises EtcdError when that did not last."""
        began_at = self._around.clock()
        try:
            listed = await self._list()
            await self._watch(listed)
        except EtcdError as error:
            if self._around.clock() - began_at >= self._around.config.healthy_after_s:
                return
            self._error = str(error)
            self._report_soon()
            raise

    async def _list(self) -> int:
        listing = await self._around.client.list_prefix(self._prefix)
        self._skip(self._entries.replace(listing))
        self._resolved, self._error = True, None
        self._report_soon()
        return listing.revision

    async def _watch(self, listed: int) -> None:
        """Watches until it is time for a new list. Raises EtcdError."""
        async with self._around.client.watch(self._prefix, start_revision=listed + 1) as watch:
            relist_at = self._around.clock() + self._relist_after_s()
            while (left_s := relist_at - self._around.clock()) > 0:
                batch = await watch.next(min(left_s, self._around.config.probe_after_s))
                if batch is None:
                    batch = await self._probe(watch)
                if batch.events:
                    self._skip(self._entries.apply(batch))
                    self._report_soon()

    async def _probe(self, watch: Watch) -> WatchBatch:
        await watch.request_progress()
        batch = await watch.next(self._around.config.probe_timeout_s)
        if batch is None:
            raise UnavailableError("the watch is silent and does not answer")
        return batch

    def _relist_after_s(self) -> float:
        return self._around.config.relist_every_s * (
            1 - self._around.rng.uniform(0, _RELIST_JITTER)
        )

    def _report_soon(self) -> None:
        if self._report is None:
            due_at = self._reported_at + self._around.config.report_every_s
            delay_s = max(0.0, due_at - self._around.clock())
            self._report = asyncio.get_running_loop().call_later(delay_s, self._tell)

    def _tell(self) -> None:
        self._report = None
        self._reported_at = self._around.clock()
        endpoints = self._entries.endpoints()
        self.listeners.publish(ResolverState(endpoints, self._resolved, self._error))

    def _skip(self, problems: Sequence[Malformed]) -> None:
        self.malformed_total += len(problems)
        for problem in problems:
            _log.warning("skipped %r: %s", problem.key[:_MAX_LOGGED_CHARS], problem.reason)
