"""The lease as an object: what is put under it lives as long as its owner.

A session renews its lease at a third of the TTL. It is `lost` when etcd says that the
lease is gone, or when no renewal succeeded for a whole TTL: etcd may then have expired
it, and an owner that cannot know must act as if it had. A lost session stays lost;
open another and put again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from discovery.backoff import MAX_BACKOFF_S, Clock, Sleep, retrying
from discovery.etcd_types import EtcdError, Lease, LeaseNotFoundError
from discovery.tasks import spawn

# etcd raises smaller ones: its floor is 1.5 election timeouts, 1.5 s by default.
MIN_TTL_S: Final = 2.0
DEFAULT_TTL_S: Final = 10.0
_RENEWALS_PER_TTL = 3

_log = logging.getLogger(__name__)


class Renewer(Protocol):
    """One open keepalive stream, as `discovery.etcd_client.Renewals`."""

    async def renew(self, timeout_s: float) -> float:
        """Renews; returns the seconds the lease now has."""


class LeaseClient(Protocol):
    """What a session needs of etcd, as `discovery.etcd_client.EtcdClient` offers it."""

    async def lease_grant(self, ttl_s: float) -> Lease:
        """Grants a lease."""

    async def lease_revoke(self, lease_id: int) -> None:
        """Revokes it."""

    def keepalive(self, lease_id: int) -> AbstractAsyncContextManager[Renewer]:
        """Opens a stream for renewals."""


class Session:
    """One lease, kept alive from `open` to `close`.

    `ttl_s` is at least MIN_TTL_S; smaller ones raise ValueError. `lost` is set when the
    lease can no longer be counted on, and never by `close`.
    """

    def __init__(
        self,
        client: LeaseClient,
        ttl_s: float = DEFAULT_TTL_S,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.lost = asyncio.Event()
        self._client = client
        self._ttl_s = checked_ttl(ttl_s)
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._lease_id = 0
        self._interval_s = self._ttl_s / _RENEWALS_PER_TTL
        self._valid_until = -math.inf
        self._due_at = -math.inf
        self._keeping: asyncio.Task[None] | None = None

    @property
    def lease_id(self) -> int:
        """The lease to put under; 0 before `open`."""
        return self._lease_id

    async def open(self) -> None:
        """Grants the lease and begins to renew it. Raises EtcdError; may be called again."""
        asked_at = self._clock()
        lease = await self._client.lease_grant(self._ttl_s)
        self._lease_id = lease.lease_id
        self._extend(asked_at, lease.ttl_s)
        self._keeping = spawn(self._keep(), f"keepalive of lease {self._lease_id:x}")

    async def close(self) -> None:
        """Stops renewing and revokes the lease, which deletes what stands under it.

        A lease that cannot be revoked now expires by itself.
        """
        await self.abandon()
        if self._lease_id and not self.lost.is_set():
            with contextlib.suppress(EtcdError):
                await self._client.lease_revoke(self._lease_id)

    async def abandon(self) -> None:
        """Stops renewing and leaves the rest to the TTL."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})

    async def _keep(self) -> None:
        retry = retrying(
            lambda error: isinstance(error, EtcdError) and not _is_gone(error),
            until=lambda: self._remaining_s() <= 0,
            # Short enough for several tries before the TTL is over.
            max_backoff_s=min(MAX_BACKOFF_S, self._interval_s / 2),
            sleep=self._sleep,
            rng=self._rng,
        )
        try:
            await retry(self._renew_until_broken)
        except EtcdError as error:
            _log.warning("lease %x is lost: %s", self._lease_id, error)
            self.lost.set()

    async def _renew_until_broken(self) -> None:
        """Renews on one stream. Never returns; raises EtcdError."""
        async with self._client.keepalive(self._lease_id) as stream:
            while True:
                await self._sleep(max(0.0, self._due_at - self._clock()))
                asked_at = self._clock()
                self._extend(asked_at, await stream.renew(self._patience_s()))

    def _extend(self, asked_at: float, ttl_s: float) -> None:
        # Counted from the question: etcd may have answered at any time since.
        self._valid_until = asked_at + ttl_s
        self._due_at = asked_at + self._interval_s

    def _patience_s(self) -> float:
        return max(0.0, min(self._interval_s, self._remaining_s()))

    def _remaining_s(self) -> float:
        return self._valid_until - self._clock()


def checked_ttl(ttl_s: float) -> float:
    """`ttl_s`, or ValueError when it is below MIN_TTL_S."""
    if not MIN_TTL_S <= ttl_s < math.inf:
        raise ValueError(f"ttl_s must be at least {MIN_TTL_S:g}, is {ttl_s:g}")
    return ttl_s


def _is_gone(error: BaseException) -> bool:
    return isinstance(error, LeaseNotFoundError)
