import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from discovery import EtcdClient, Session
from discovery.etcd_types import Lease, LeaseNotFoundError, UnavailableError
from tests.discovery.helpers import happens
from tests.support.etcd import EtcdProcess
from tests.support.waiting import eventually


class _Clock:
    """Time that passes only by sleeping, and then at once."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class _ScriptedEtcd:
    """Grants a lease of 6 s and then answers renewals by script; at its end all fail."""

    def __init__(self, clock: _Clock, script: list[float | Exception]) -> None:
        self.renewed_at: list[float] = []
        self.revoked: list[int] = []
        self._clock = clock
        self._script = script

    async def lease_grant(self, ttl_s: float) -> Lease:
        return Lease(7, ttl_s)

    async def lease_revoke(self, lease_id: int) -> None:
        self.revoked.append(lease_id)

    @asynccontextmanager
    async def keepalive(self, lease_id: int) -> AsyncIterator["_ScriptedEtcd"]:
        yield self

    async def renew(self, timeout_s: float) -> float:
        self.renewed_at.append(self._clock.now)
        answer = self._script.pop(0) if self._script else UnavailableError("gone")
        if isinstance(answer, Exception):
            raise answer
        return answer


def _session(etcd: _ScriptedEtcd, clock: _Clock) -> Session:
    return Session(etcd, 6.0, clock=clock, sleep=clock.sleep, rng=random.Random(1))


async def test_the_lease_is_renewed_at_a_third_of_its_ttl() -> None:
    """A TTL of 6 s means a renewal every 2 s."""
    clock = _Clock()
    etcd = _ScriptedEtcd(clock, [6.0, 6.0, 6.0, LeaseNotFoundError()])
    session = _session(etcd, clock)

    await session.open()
    await happens(session.lost)

    assert etcd.renewed_at == [102.0, 104.0, 106.0, 108.0]


async def test_a_lease_that_is_gone_is_lost_at_once() -> None:
    """Nothing is tried again when etcd says that the lease is gone."""
    clock = _Clock()
    etcd = _ScriptedEtcd(clock, [LeaseNotFoundError()])
    session = _session(etcd, clock)

    await session.open()
    await happens(session.lost)

    assert len(etcd.renewed_at) == 1


async def test_a_ttl_without_a_renewal_is_a_loss() -> None:
    """It is tried several times until the TTL since the last success is over."""
    clock = _Clock()
    etcd = _ScriptedEtcd(clock, [6.0])
    session = _session(etcd, clock)

    await session.open()
    await happens(session.lost)

    assert len(etcd.renewed_at) > 3
    assert clock.now >= 108.0


async def test_one_missed_renewal_is_no_loss() -> None:
    """A failed renewal is tried again soon, and the next follows a third of a TTL later."""
    clock = _Clock()
    etcd = _ScriptedEtcd(clock, [UnavailableError(), 6.0, LeaseNotFoundError()])
    session = _session(etcd, clock)

    await session.open()
    await happens(session.lost)

    first, second, third = etcd.renewed_at
    assert first <= second < first + 2.0
    assert pytest.approx(second + 2.0) == third


async def test_a_lost_lease_is_not_revoked() -> None:
    """Its keys may be all the readers have until they are put again."""
    clock = _Clock()
    etcd = _ScriptedEtcd(clock, [])
    session = _session(etcd, clock)
    await session.open()
    await happens(session.lost)

    await session.close()

    assert etcd.revoked == []


@pytest.mark.parametrize("ttl_s", [1.9, 0, -1, float("nan"), float("inf")])
def test_a_ttl_below_what_etcd_grants_is_refused(ttl_s: float) -> None:
    """The smallest TTL is 2 s."""
    clock = _Clock()
    with pytest.raises(ValueError, match="ttl_s"):
        Session(_ScriptedEtcd(clock, []), ttl_s)


async def test_closing_revokes(etcd: EtcdProcess, client: EtcdClient) -> None:
    """What stands under the lease is gone when close returns."""
    session = Session(client, 5.0)
    await session.open()
    await client.put(b"k", b"v", lease_id=session.lease_id)

    await session.close()

    assert etcd.entries() == {}
    assert not session.lost.is_set()


async def test_a_revoked_lease_is_lost(etcd: EtcdProcess, client: EtcdClient) -> None:
    """Real etcd says TTL 0 to the next renewal."""
    session = Session(client, 2.0)
    await session.open()

    etcd.revoke(session.lease_id)

    await happens(session.lost)
    await session.close()


async def test_a_session_survives_a_restart_of_etcd(etcd: EtcdProcess, client: EtcdClient) -> None:
    """A kill and a quick start are within the TTL: the lease stays."""
    session = Session(client, 5.0)
    await session.open()
    await client.put(b"k", b"v", lease_id=session.lease_id)

    etcd.restart()
    seen: list[float] = []

    async def renewed() -> None:
        async with client.keepalive(session.lease_id) as renewals:
            seen.append(await renewals.renew(3.0))

    async with asyncio.timeout(15):
        while not seen:
            try:
                await renewed()
            except UnavailableError:
                await asyncio.sleep(0.01)

    assert not session.lost.is_set()
    assert etcd.entries() == {"k": b"v"}
    await session.close()


async def test_a_session_whose_etcd_stays_away_is_lost(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """Without renewal for a TTL its owner must not count on it, and close does not hang."""
    session = Session(client, 2.0)
    await session.open()

    etcd.kill9()

    await eventually(session.lost.is_set)
    await session.close()
