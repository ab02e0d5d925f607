import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

import discovery.registrar
import discovery.registration
from discovery import (
    Endpoint,
    EtcdClient,
    EtcdClientConfig,
    InvalidServiceNameError,
    Registrar,
    decode_value,
    encode_value,
)
from discovery.backoff import FIRST_BACKOFF_S
from discovery.etcd_types import KeyValue
from tests.discovery.helpers import WAIT_S, happens
from tests.discovery.proxy import TcpProxy
from tests.support.etcd import EtcdProcess
from tests.support.waiting import eventually

_SERVICE = "tallystick/ledger"
_ENDPOINT = Endpoint("10.0.0.7:50051", zone="a")
_KEY = "tallystick/ledger/10.0.0.7:50051"
_TTL_S = 2.0


@pytest_asyncio.fixture
async def registrar(client: EtcdClient) -> AsyncIterator[Registrar]:
    """A registrar with the smallest TTL, looking at its keys often."""
    registrar = Registrar(client, _TTL_S, check_every_s=0.1)
    yield registrar
    await registrar.close()


async def test_a_registered_endpoint_is_in_etcd(etcd: EtcdProcess, registrar: Registrar) -> None:
    """Its key and value are there, under a lease, when `registered` is set."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)

    assert {key: decode_value(v) for key, v in etcd.entries().items()} == {_KEY: _ENDPOINT}
    assert etcd.lease_of(_KEY)


async def test_registering_does_not_wait_for_etcd(etcd: EtcdProcess, registrar: Registrar) -> None:
    """With etcd away it returns at once, and registers when etcd is there."""
    etcd.kill9()
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    assert not registration.registered.is_set()

    etcd.start()
    await happens(registration.registered)

    assert list(etcd.entries()) == [_KEY]


async def test_it_is_back_after_etcd_restarts_with_its_data(
    etcd: EtcdProcess, registrar: Registrar
) -> None:
    """After kill -9 and start the key stays, and outlives the TTL since the restart."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)

    etcd.restart()
    restarted_at = time.monotonic()

    while time.monotonic() < restarted_at + 2 * _TTL_S:
        assert _KEY in etcd.entries()
        await asyncio.sleep(0.05)
    assert registration.registered.is_set()


async def test_it_is_back_after_etcd_was_away_for_longer_than_the_ttl(
    etcd: EtcdProcess, registrar: Registrar
) -> None:
    """The session is lost meanwhile; the key moves to a new lease and is never away."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)
    old_lease = etcd.lease_of(_KEY)

    etcd.kill9()
    session = registrar._session
    assert session is not None
    await happens(session.lost)
    etcd.start()

    assert _KEY in etcd.entries()
    await eventually(lambda: etcd.lease_of(_KEY) not in (0, old_lease))
    await happens(registration.registered)


async def test_it_is_back_after_etcd_lost_its_data(etcd: EtcdProcess, registrar: Registrar) -> None:
    """An emptied data directory forgets lease and key; both are made anew."""
    registrations = [
        await registrar.register(_SERVICE, replace(_ENDPOINT, address=f"10.0.0.7:{port}"))
        for port in (1, 2, 3)
    ]
    for registration in registrations:
        await happens(registration.registered)

    etcd.restart(empty=True)

    await eventually(lambda: len(etcd.entries(_SERVICE)) == 3)


async def test_it_is_back_after_its_lease_was_revoked(
    etcd: EtcdProcess, registrar: Registrar
) -> None:
    """A lease revoked under a live process is replaced."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)
    old_lease = etcd.lease_of(_KEY)

    etcd.revoke(old_lease)

    await eventually(lambda: etcd.lease_of(_KEY) not in (0, old_lease))
    await happens(registration.registered)


async def test_it_is_back_after_its_key_was_deleted(
    etcd: EtcdProcess, registrar: Registrar
) -> None:
    """The lease lives on, so only looking at the key shows that it is gone."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)

    etcd.delete(_KEY)

    await eventually(lambda: _KEY in etcd.entries())


async def test_a_key_put_without_our_lease_is_taken_back(
    etcd: EtcdProcess, registrar: Registrar
) -> None:
    """Somebody's put without a lease would outlive us; it is replaced by ours."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)
    lease_id = etcd.lease_of(_KEY)

    etcd.put(_KEY, b"{}")

    await eventually(lambda: etcd.lease_of(_KEY) == lease_id)


async def test_one_who_stops_renewing_is_gone_after_the_ttl(
    etcd: EtcdProcess, registrar: Registrar
) -> None:
    """A process that dies leaves its key for a TTL and no longer."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)

    assert registrar._running is not None
    registrar._running.cancel()
    assert registrar._session is not None
    await registrar._session.abandon()

    await eventually(lambda: not etcd.entries())


async def test_deregistering_is_immediate(etcd: EtcdProcess, registrar: Registrar) -> None:
    """The key is gone when it returns, and the others stay."""
    leaving = await registrar.register(_SERVICE, _ENDPOINT)
    staying = await registrar.register("tallystick/order", _ENDPOINT)
    await happens(leaving.registered)
    await happens(staying.registered)

    await leaving.deregister()

    assert list(etcd.entries()) == ["tallystick/order/10.0.0.7:50051"]


async def test_deregistering_spares_a_successor(etcd: EtcdProcess, client: EtcdClient) -> None:
    """A key that another process has put at this address meanwhile is not deleted."""
    old, new = Registrar(client, check_every_s=60), Registrar(client, check_every_s=60)
    leaving = await old.register(_SERVICE, _ENDPOINT)
    await happens(leaving.registered)
    await happens((await new.register(_SERVICE, _ENDPOINT)).registered)

    await leaving.deregister()
    await old.close()

    assert list(etcd.entries()) == [_KEY]
    await new.close()


async def test_deregistering_goes_on_when_etcd_is_back(
    etcd: EtcdProcess, client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With etcd away it returns in bounded time, and the key goes as soon as it can."""
    monkeypatch.setattr(discovery.registration, "DEREGISTER_TIMEOUT_S", 0.05)
    registrar = Registrar(client, 60.0)
    leaving = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(leaving.registered)
    etcd.kill9()

    await leaving.deregister()
    etcd.start()

    await eventually(lambda: not etcd.entries())
    await registrar.close()


async def test_a_deregistered_endpoint_may_register_again(
    etcd: EtcdProcess, registrar: Registrar
) -> None:
    """The same address can come back, even before it was gone."""
    first = await registrar.register(_SERVICE, _ENDPOINT)
    leaving = asyncio.ensure_future(first.deregister())
    await asyncio.sleep(0)

    second = await registrar.register(_SERVICE, _ENDPOINT)
    await leaving
    await happens(second.registered)

    assert list(etcd.entries()) == [_KEY]


async def test_draining_is_seen_in_the_metadata(etcd: EtcdProcess, registrar: Registrar) -> None:
    """The endpoint stays, marked, and nothing else about it changes."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)

    await registrar.drain()
    await happens(registration.registered)

    assert replace(_ENDPOINT, draining=True) == decode_value(etcd.entries()[_KEY])


async def test_a_paused_endpoint_is_away_until_it_resumes(
    etcd: EtcdProcess, registrar: Registrar
) -> None:
    """It is gone when pause returns, and comes back as it then is, under the same lease."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)
    lease_id = etcd.lease_of(_KEY)

    await registration.pause()
    assert registration.paused
    assert etcd.entries() == {}
    await registration.update(replace(_ENDPOINT, weight=7))
    assert etcd.entries() == {}

    await registration.resume()
    await happens(registration.registered)
    assert decode_value(etcd.entries()[_KEY]).weight == 7
    assert lease_id == etcd.lease_of(_KEY)


async def test_a_pause_outlives_the_session(etcd: EtcdProcess, registrar: Registrar) -> None:
    """A new lease puts back what is wanted, and nothing else."""
    paused = await registrar.register(_SERVICE, _ENDPOINT)
    staying = await registrar.register("tallystick/order", _ENDPOINT)
    await happens(staying.registered)
    await paused.pause()

    etcd.restart(empty=True)
    await eventually(lambda: list(etcd.entries()) == ["tallystick/order/10.0.0.7:50051"])

    await paused.resume()
    await eventually(lambda: _KEY in etcd.entries())


async def test_who_leaves_on_purpose_drains_first(etcd: EtcdProcess, client: EtcdClient) -> None:
    """Pausing, deregistering and closing each write the mark before the key goes."""
    registrar = Registrar(client)
    before = etcd.revision()
    async with client.watch(b"", after_revision=before) as watch:
        for leave in ("pause", "deregister"):
            registration = await registrar.register(_SERVICE, _ENDPOINT)
            await happens(registration.registered)
            await getattr(registration, leave)()
            if leave == "pause":
                await registration.deregister()
        await happens((await registrar.register(_SERVICE, _ENDPOINT)).registered)
        await registrar.close()
        history: list[str] = []
        while history.count("deleted") < 3:
            batch = await watch.next(WAIT_S)
            assert batch is not None
            for event in batch.events:
                value = event.entry.value
                history.append("deleted" if event.deleted else str(decode_value(value).draining))

    assert history == ["False", "True", "deleted"] * 3


async def test_a_mark_that_an_operator_set_stays(
    etcd: EtcdProcess, client: EtcdClient, registrar: Registrar
) -> None:
    """It is not undone by the owner, and outlives the owner's lease."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)
    entry = await client.get(_KEY.encode())
    assert entry is not None

    assert await client.replace(entry, encode_value(replace(_ENDPOINT, draining=True)))
    await eventually(lambda: registration.endpoint.draining)
    etcd.revoke(etcd.lease_of(_KEY))
    await eventually(lambda: not etcd.entries() or etcd.lease_of(_KEY) != entry.lease_id)
    await eventually(lambda: _KEY in etcd.entries())

    assert decode_value(etcd.entries()[_KEY]).draining


async def test_what_somebody_else_wrote_under_our_lease_is_put_right(
    etcd: EtcdProcess, client: EtcdClient, registrar: Registrar
) -> None:
    """Only the mark of draining is an operator's to change."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)
    entry = await client.get(_KEY.encode())
    assert entry is not None

    assert await client.replace(entry, encode_value(replace(_ENDPOINT, weight=9)))
    await eventually(lambda: decode_value(etcd.entries()[_KEY]) == _ENDPOINT)


async def test_an_update_replaces_the_value(etcd: EtcdProcess, registrar: Registrar) -> None:
    """Of updates in quick succession the last is what stays."""
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    for weight in (2, 3, 4):
        await registration.update(replace(_ENDPOINT, weight=weight))
    await happens(registration.registered)

    assert decode_value(etcd.entries()[_KEY]).weight == 4
    with pytest.raises(ValueError, match="another address"):
        await registration.update(Endpoint("10.0.0.8:1"))


async def test_closing_takes_everything_out_at_once(etcd: EtcdProcess, client: EtcdClient) -> None:
    """All keys go with the lease, and nothing can be registered any more."""
    registrar = Registrar(client)
    for port in (1, 2):
        await happens((await registrar.register(_SERVICE, Endpoint(f"a:{port}"))).registered)

    await registrar.close()

    assert etcd.entries() == {}
    with pytest.raises(RuntimeError):
        await registrar.register(_SERVICE, _ENDPOINT)


async def test_closing_while_etcd_is_away_does_not_hang(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """The lease is left to expire."""
    registrar = Registrar(client)
    await happens((await registrar.register(_SERVICE, _ENDPOINT)).registered)
    etcd.kill9()

    async with asyncio.timeout(15):
        await registrar.close()


async def test_what_cannot_be_registered_is_refused_at_once(
    registrar: Registrar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad name, a second registration and one too many are told to the caller."""
    await registrar.register(_SERVICE, _ENDPOINT)

    with pytest.raises(InvalidServiceNameError):
        await registrar.register("/bad", _ENDPOINT)
    with pytest.raises(ValueError, match="already"):
        await registrar.register(_SERVICE, _ENDPOINT)
    monkeypatch.setattr(discovery.registrar, "MAX_REGISTRATIONS", 1)
    with pytest.raises(ValueError, match="more than 1"):
        await registrar.register("tallystick/order", _ENDPOINT)


class _CountingClient(EtcdClient):
    """A client that counts how often keys are looked at."""

    looks = 0

    async def get(self, key: bytes) -> KeyValue | None:
        """As EtcdClient."""
        self.looks += 1
        return await super().get(key)


class _Patient(random.Random):
    """Draws the longest wait there is."""

    def uniform(self, a: float, b: float) -> float:
        """See random.Random.uniform."""
        return max(a, b)


async def test_a_look_that_fails_is_not_repeated_without_end(etcd: EtcdProcess) -> None:
    """While etcd is away each look waits longer for the next."""
    client = _CountingClient([etcd.endpoint, etcd.endpoint])
    registrar = Registrar(client, 60.0, check_every_s=0.01, rng=_Patient())
    await happens((await registrar.register(_SERVICE, _ENDPOINT)).registered)
    etcd.kill9()

    before, began_s = client.looks, time.monotonic()
    await eventually(lambda: client.looks >= before + 5, 15)

    # Of four waits each is twice the one before.
    assert time.monotonic() - began_s >= FIRST_BACKOFF_S * (1 + 2 + 4 + 8)
    await registrar.close()
    await client.close()


class _SlowClient(EtcdClient):
    """A client before whose marking of a key somebody else takes the key."""

    async def replace(self, entry: KeyValue, value: bytes) -> KeyValue | None:
        """As EtcdClient, too late."""
        successor = await self.lease_grant(60)
        await self.put(entry.key, encode_value(_ENDPOINT), lease_id=successor.lease_id)
        return await super().replace(entry, value)


async def test_a_successor_that_comes_at_the_last_moment_is_spared(etcd: EtcdProcess) -> None:
    """The key is deleted only as it was when it was ours."""
    client = _SlowClient([etcd.endpoint])
    registrar = Registrar(client, check_every_s=60)
    leaving = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(leaving.registered)

    await leaving.deregister()
    await registrar.close()

    assert list(etcd.entries()) == [_KEY]
    await client.close()


async def test_closing_at_once_after_draining_says_so_for_all(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """Marks that were not written yet are written before the keys go."""
    registrar = Registrar(client, check_every_s=60)
    for port in (1, 2, 3):
        await happens((await registrar.register(_SERVICE, Endpoint(f"a:{port}"))).registered)
    before = etcd.revision()

    await registrar.drain()
    await registrar.close()

    marked, gone = set[bytes](), set[bytes]()
    async with client.watch(b"", after_revision=before) as watch:
        while len(gone) < 3:
            batch = await watch.next(WAIT_S)
            assert batch is not None
            for event in batch.events:
                (gone if event.deleted else marked).add(event.entry.key)
    assert gone == marked


@pytest.mark.parametrize("check_every_s", [0.0, -1.0])
async def test_an_interval_of_nothing_is_refused(client: EtcdClient, check_every_s: float) -> None:
    """It would be a loop without a pause."""
    with pytest.raises(ValueError, match="check_every_s"):
        Registrar(client, check_every_s=check_every_s)


async def test_a_put_that_comes_late_changes_nothing_for_good(etcd: EtcdProcess) -> None:
    """Of an endpoint that was paused while a put hung, none comes back when it is done."""
    async with TcpProxy(etcd.endpoint) as proxy:
        client = EtcdClient(
            [proxy.endpoint, etcd.endpoint], config=EtcdClientConfig(request_timeout_s=0.5)
        )
        registrar = Registrar(client, _TTL_S)
        staying = await registrar.register("tallystick/order", _ENDPOINT)
        paused = await registrar.register(_SERVICE, _ENDPOINT)
        await happens(paused.registered)
        await happens(staying.registered)
        before = etcd.lease_of("tallystick/order/10.0.0.7:50051")

        proxy.freeze()
        await paused.update(replace(_ENDPOINT, weight=9))
        await eventually(lambda: registrar._away)
        await paused.pause()
        await eventually(
            lambda: etcd.lease_of("tallystick/order/10.0.0.7:50051") not in (0, before)
        )
        await eventually(lambda: registrar._former is None)
        with pytest.raises(RuntimeError, match="lease not found"):
            etcd.put(_KEY, b"late", lease_id=before)

        assert list(etcd.entries()) == ["tallystick/order/10.0.0.7:50051"]
        await registrar.close()
        await client.close()


async def test_after_closing_nothing_is_waited_for(client: EtcdClient) -> None:
    """A registration of a closed registrar is gone, whatever is asked of it."""
    registrar = Registrar(client)
    registration = await registrar.register(_SERVICE, _ENDPOINT)
    await happens(registration.registered)
    await registrar.close()

    await registration.update(replace(_ENDPOINT, weight=2))
    async with asyncio.timeout(1.0):
        await registration.deregister()

    assert registration.gone.is_set()
