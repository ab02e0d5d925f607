"""Puts endpoints into the registry and keeps them there.

A registrar is a reconciler: callers say what should be there, and one task, the only
writer, makes it so again and again, whatever happens to etcd in between. Every lost
session is followed by a new one under which everything is put again. Since etcd may
lose data without losing the lease, or go on renewing one that was revoked, each key is
also looked at once in a TTL.

A put that was not answered may still be carried out, minutes later, when the endpoint has
changed or is to be gone. So the lease it was made under is given up: all is put under
another, and the old one is revoked, after which etcd refuses what comes late.

A lost lease is not revoked but left to expire: by the time etcd can be reached again
its keys may be all that the readers have, and putting them again moves them to the new
lease without their ever being away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Final

import tenacity

from discovery.backoff import MAX_BACKOFF_S, retrying
from discovery.endpoint import Endpoint
from discovery.etcd_client import EtcdClient
from discovery.etcd_types import (
    EtcdError,
    KeyValue,
    LeaseNotFoundError,
    PermissionDeniedError,
    RejectedError,
    UnavailableError,
)
from discovery.registration import DEREGISTER_TIMEOUT_S, Registration, Wanted
from discovery.session import DEFAULT_TTL_S, Session, checked_ttl
from discovery.tasks import first_of, spawn

MAX_REGISTRATIONS: Final = 1000
# Between two tries to write what etcd refused, to this user or at all.
REFUSED_PAUSE_S: Final = 2.0
_TRIES_PER_TTL = 4
_REFUSALS = (RejectedError, PermissionDeniedError)

_log = logging.getLogger(__name__)


class Registrar:
    """Keeps the endpoints of one process in the registry, under one lease.

    `ttl_s`, at least 2, is how long they outlive a process that dies; `check_every_s`
    (a TTL by default) how often each key is looked at. Raises ValueError.
    """

    def __init__(
        self,
        client: EtcdClient,
        ttl_s: float = DEFAULT_TTL_S,
        *,
        check_every_s: float | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._ttl_s = checked_ttl(ttl_s)
        self._check_every_s = ttl_s if check_every_s is None else check_every_s
        if not self._check_every_s > 0:
            raise ValueError("check_every_s must be above 0")
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._registrations: dict[bytes, Registration] = {}
        self._wake = asyncio.Event()
        self._session: Session | None = None
        self._former: Session | None = None
        self._running: asyncio.Task[None] | None = None
        self._closed = False
        self._away = False
        self._unanswered = False

    async def register(self, service: str, endpoint: Endpoint) -> Registration:
        """Keeps `endpoint` registered under `service` from now on.

        Returns at once, whether etcd is there or not: await `registered` of the result
        to know. Raises NamingError for what cannot be written, ValueError for an
        endpoint that is registered already, RuntimeError after `close`.
        """
        if self._closed:
            raise RuntimeError("the registrar is closed")
        registration = Registration(service, endpoint, self._wake)
        former = self._registrations.get(registration.key)
        if former is not None and former.wanted is not Wanted.LEAVING:
            raise ValueError(f"{registration.key.decode()} is registered already")
        if len(self._registrations) >= MAX_REGISTRATIONS:
            raise ValueError(f"more than {MAX_REGISTRATIONS} registrations")
        if former is not None:
            registration.succeed(former)
        self._registrations[registration.key] = registration
        self._wake.set()
        if self._running is None:
            self._running = spawn(self._run(), "registrar")
        return registration

    async def drain(self) -> None:
        """Marks every endpoint as draining. Returns at once."""
        for registration in tuple(self._registrations.values()):
            await registration.drain()

    async def close(self) -> None:
        """Takes everything out of the registry, by revoking the lease.

        Before that each endpoint is marked as draining, so that readers take them for
        gone at once, however many go. While etcd is away the lease is left to expire.
        """
        self._closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        if self._session is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEREGISTER_TIMEOUT_S):
                    await self._say_farewell_to_all()
            await self._session.close()
        await self._close_former()
        for registration in self._registrations.values():
            registration.end()

    async def _run(self) -> None:
        while True:
            session = Session(self._client, self._ttl_s, rng=self._rng)
            await self._retrying(lambda: False)(session.open)
            self._former, self._session = self._session, session
            await self._keep_all(session)
            self._unsettle_all()
            if session.lost.is_set():
                await session.abandon()

    async def _keep_all(self, session: Session) -> None:
        """Keeps everything under `session` until that is lost or no longer trusted."""
        self._unsettle_all()
        self._unanswered = False
        retry = self._retrying(session.lost.is_set)
        clock = asyncio.get_running_loop().time
        check_at = clock() + self._check_every_s
        while not session.lost.is_set():
            try:
                all_settled: bool = await retry(self._settle, session)
                await self._close_former()
                if self._unanswered:
                    return
                patience_s = check_at - clock() if all_settled else REFUSED_PAUSE_S
                await self._woken(session, max(0.0, patience_s))
                if clock() >= check_at:
                    await retry(self._check, session)
                    check_at = clock() + self._check_every_s
            except LeaseNotFoundError:
                session.lost.set()
            except EtcdError as error:
                self._complain(error)

    async def _close_former(self) -> None:
        if self._former is not None:
            await self._former.close()
            self._former = None

    def _unsettle_all(self) -> None:
        for registration in self._registrations.values():
            registration.registered.clear()

    async def _settle(self, session: Session) -> bool:
        """Writes whatever is not yet as it should be; False when some was refused."""
        self._wake.clear()
        refused: EtcdError | None = None
        for registration in tuple(self._registrations.values()):
            try:
                await self._settle_one(registration, session.lease_id)
            except _REFUSALS as error:
                # What is refused for one key may be allowed for the next.
                refused = error
        if refused is not None:
            self._complain(refused)
        elif self._away:
            self._away = False
            _log.warning("the registry is back")
        return refused is None

    async def _settle_one(self, registration: Registration, lease_id: int) -> None:
        if registration.settled:
            return
        if registration.wanted is Wanted.PRESENT:
            await self._put(registration, lease_id)
        else:
            await self._remove(registration)

    async def _put(self, registration: Registration, lease_id: int) -> None:
        value = registration.value
        registration.leases.add(lease_id)
        try:
            await self._client.put(registration.key, value, lease_id=lease_id)
        except UnavailableError:
            self._unanswered = True
            raise
        registration.leases = {lease_id}
        # It may have been updated, paused or told to leave while we waited.
        if registration.value == value and registration.wanted is Wanted.PRESENT:
            registration.registered.set()

    async def _remove(self, registration: Registration) -> None:
        entry = await self._say_farewell(registration)
        if entry is not None and not await self._client.remove(entry):
            raise UnavailableError("the key was changed while it was being removed")
        # It may have been resumed while we waited.
        if registration.wanted is Wanted.PRESENT:
            return
        registration.gone.set()
        leaving = registration.wanted is Wanted.LEAVING
        if leaving and self._registrations.get(registration.key) is registration:
            del self._registrations[registration.key]

    async def _say_farewell_to_all(self) -> None:
        for registration in self._registrations.values():
            try:
                await self._say_farewell(registration)
            except _REFUSALS:
                continue
            except EtcdError:
                return

    async def _say_farewell(self, registration: Registration) -> KeyValue | None:
        """Marks the key as draining and returns it; None when there is none of ours.

        Raises UnavailableError when somebody else changes it at the same time.
        """
        entry = await self._client.get(registration.key)
        # A key under a lease that is not ours belongs to our successor at this address.
        if entry is None or entry.lease_id not in registration.leases:
            return None
        value = registration.farewell(entry.value)
        if value is None:
            return entry
        marked = await self._client.replace(entry, value)
        if marked is None:
            raise UnavailableError("the key was changed while it was being marked")
        return marked

    async def _check(self, session: Session) -> None:
        """Notices keys that etcd has lost, or that are no longer as we put them."""
        for registration in tuple(self._registrations.values()):
            if not registration.registered.is_set():
                continue
            try:
                entry = await self._client.get(registration.key)
            except _REFUSALS as error:
                self._complain(error)
                continue
            if registration.registered.is_set():
                self._compare(registration, entry, session.lease_id)

    def _compare(self, registration: Registration, entry: KeyValue | None, lease_id: int) -> None:
        if entry is None or entry.lease_id != lease_id:
            _log.warning("%s was not ours in the registry", registration.key.decode())
            registration.registered.clear()
        elif not registration.adopt(entry.value):
            _log.warning("%s was changed by somebody", registration.key.decode())
            registration.registered.clear()

    async def _woken(self, session: Session, patience_s: float) -> None:
        """Waits for something to do, at most `patience_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await first_of(self._wake, session.lost)

    def _retrying(self, until: Callable[[], bool]) -> tenacity.AsyncRetrying:
        # After an outage the readers' last hold is the old lease, which etcd prolongs by
        # one TTL when it comes back: the keys must stand under the new one before that.
        cap_s = min(MAX_BACKOFF_S, self._ttl_s / _TRIES_PER_TTL)
        return retrying(self._is_passing, until=until, max_backoff_s=cap_s, rng=self._rng)

    def _is_passing(self, error: BaseException) -> bool:
        """Whether trying again under the same lease may help."""
        if not isinstance(error, EtcdError) or isinstance(error, LeaseNotFoundError):
            return False
        self._complain(error)
        return True

    def _complain(self, error: EtcdError) -> None:
        """Says once, until all is well again, that the registry cannot be written to."""
        if not self._away:
            self._away = True
            _log.warning("cannot write to the registry, will keep trying: %s", error)
