"""What a resolver does when the connection to etcd, or etcd's memory, is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from discovery import (
    Endpoint,
    EtcdClient,
    EtcdClientConfig,
    EtcdResolver,
    EtcdResolverConfig,
    Registrar,
)
from discovery.endpoint import encode_value
from discovery.etcd_types import Page
from tests.discovery.helpers import Recorder, happens
from tests.discovery.proxy import TcpProxy
from tests.support.etcd import EtcdProcess
from tests.support.waiting import eventually

_SERVICE = "tallystick/ledger"
_PATIENT = EtcdResolverConfig(healthy_after_s=0.001)


class _CountingClient(EtcdClient):
    """A client that counts its listings."""

    listings = 0

    async def pages(self, prefix: bytes) -> AsyncIterator[Page]:
        """As EtcdClient."""
        self.listings += 1
        async for page in super().pages(prefix):
            yield page


def _put(etcd: EtcdProcess, *addresses: str) -> None:
    for address in addresses:
        etcd.put(f"{_SERVICE}/{address}", encode_value(Endpoint(address)))


async def test_a_broken_connection_is_resumed_without_a_listing(etcd: EtcdProcess) -> None:
    """What happened meanwhile is heard from the watch, which goes on where it stood."""
    async with TcpProxy(etcd.endpoint) as proxy:
        client = _CountingClient([proxy.endpoint])
        resolver = EtcdResolver(client, config=_PATIENT)
        listener = Recorder()
        _put(etcd, "a:1", "b:1")
        resolver.subscribe(_SERVICE, listener)
        await listener.hears("a:1", "b:1")

        for port in range(2, 5):
            await proxy.cut()
            _put(etcd, f"a:{port}")
            etcd.delete(f"{_SERVICE}/a:{port - 1}")
            await proxy.heal()
            await listener.hears(f"a:{port}", "b:1")

        assert client.listings == 1
        await resolver.close()
        await client.close()


async def test_a_store_that_lost_its_data_and_grew_again_is_listed(etcd: EtcdProcess) -> None:
    """A revision that is reached again is not the one that was seen."""
    async with TcpProxy(etcd.endpoint) as proxy:
        client = _CountingClient([proxy.endpoint])
        resolver = EtcdResolver(client, config=_PATIENT)
        listener = Recorder()
        _put(etcd, "a:1", "b:1")
        resolver.subscribe(_SERVICE, listener)
        await listener.hears("a:1", "b:1")
        seen = etcd.revision()

        await proxy.cut()
        etcd.restart(empty=True)
        while etcd.revision() <= seen + 3:
            _put(etcd, "c:1")
        await proxy.heal()
        await listener.hears("c:1")

        assert client.listings == 2
        await resolver.close()
        await client.close()


async def test_row_23_a_watch_compacted_while_disconnected_is_listed(etcd: EtcdProcess) -> None:
    """Nothing is stale or missing when the history in between is gone."""
    async with TcpProxy(etcd.endpoint) as proxy:
        client = _CountingClient([proxy.endpoint])
        resolver = EtcdResolver(client, config=_PATIENT)
        listener = Recorder()
        _put(etcd, "a:1", "b:1")
        resolver.subscribe(_SERVICE, listener)
        await listener.hears("a:1", "b:1")

        await proxy.cut()
        etcd.delete(f"{_SERVICE}/a:1")
        _put(etcd, "c:1")
        etcd.compact()
        await proxy.heal()
        await listener.hears("b:1", "c:1")

        assert client.listings == 2
        await resolver.close()
        await client.close()


async def test_row_22_a_lease_lost_under_a_live_process_is_replaced(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """It is registered again under a new lease, and meanwhile withdrawn, not forgotten."""
    registrar = Registrar(client, 2.0)
    registration = await registrar.register(_SERVICE, Endpoint("10.0.0.1:1"))
    await happens(registration.registered)
    resolver = EtcdResolver(client)
    listener = Recorder()
    resolver.subscribe(_SERVICE, listener)
    await listener.hears("10.0.0.1:1")

    etcd.revoke(etcd.lease_of(f"{_SERVICE}/10.0.0.1:1"))
    await eventually(lambda: listener.last.withdrawn == (Endpoint("10.0.0.1:1"),))
    await listener.hears("10.0.0.1:1")

    assert listener.last.withdrawn == ()
    await resolver.close()
    await registrar.close()


async def test_row_22_when_every_lease_is_revoked_all_are_withdrawn_and_return(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """The first two of five to go may have died; from the third on none is missing."""
    addresses = [f"10.0.0.{host}:1" for host in range(1, 6)]
    registrars = [Registrar(client, 2.0) for _ in addresses]
    for registrar, address in zip(registrars, addresses, strict=True):
        await happens((await registrar.register(_SERVICE, Endpoint(address))).registered)
    resolver = EtcdResolver(client, config=EtcdResolverConfig(report_every_s=0.5))
    listener = Recorder()
    resolver.subscribe(_SERVICE, listener)
    await listener.hears(*addresses)
    heard = len(listener.states)

    for address in addresses:
        etcd.revoke(etcd.lease_of(f"{_SERVICE}/{address}"))
    await eventually(lambda: listener.last.withdrawn)
    await listener.hears(*addresses)

    for state in listener.states[heard:]:
        usable = {each.address for each in (*state.endpoints, *state.withdrawn)}
        assert len(usable) >= len(addresses) - 2, state
    for registrar in registrars:
        await registrar.close()
    await listener.hears()
    assert listener.last.withdrawn == ()
    await resolver.close()


async def test_a_client_starts_from_its_cache_while_etcd_is_down(
    etcd: EtcdProcess, tmp_path: Path
) -> None:
    """It begins with the list it kept, says why, and follows etcd when that is there."""
    config = EtcdResolverConfig(cache_dir=tmp_path / "cache")
    client = EtcdClient([etcd.endpoint])
    _put(etcd, "a:1", "b:1")
    before = EtcdResolver(client, config=config)
    listener = Recorder()
    before.subscribe(_SERVICE, listener)
    await listener.hears("a:1", "b:1")
    await eventually(lambda: list(tmp_path.glob("cache/*.json")))
    await before.close()
    etcd.kill9()

    after = EtcdResolver(client, config=config)
    listener = Recorder()
    after.subscribe(_SERVICE, listener)
    await listener.hears_error()
    assert listener.addresses == ["a:1", "b:1"]
    assert listener.last.resolved
    etcd.start()
    etcd.delete(f"{_SERVICE}/a:1")
    await listener.hears("b:1")

    await after.close()
    await client.close()


async def test_a_cache_that_nobody_made_changes_nothing(tmp_path: Path) -> None:
    """Without a list from anywhere the service is not resolved, and the reason is said."""
    client = EtcdClient(["127.0.0.1:1"])
    resolver = EtcdResolver(client, config=EtcdResolverConfig(cache_dir=tmp_path))
    listener = Recorder()
    resolver.subscribe(_SERVICE, listener)

    await listener.hears_error()

    assert not listener.last.resolved
    await resolver.close()
    await client.close()


async def test_a_registry_that_only_accepts_is_said_to_be_away(etcd: EtcdProcess) -> None:
    """Waiting long for an answer is not having been well for long."""
    async with TcpProxy(etcd.endpoint) as proxy:
        client = EtcdClient([proxy.endpoint], config=EtcdClientConfig(request_timeout_s=0.2))
        resolver = EtcdResolver(client, config=EtcdResolverConfig(healthy_after_s=0.1))
        proxy.freeze()
        listener = Recorder()
        resolver.subscribe(_SERVICE, listener)

        await listener.hears_error()

        assert not listener.last.resolved
        await resolver.close()
        await client.close()


async def test_an_entry_of_a_wiped_store_with_the_same_numbers_is_read_anew(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """Key, revision and count of puts are as before, and yet it says something else."""
    resolver = EtcdResolver(client, config=EtcdResolverConfig(healthy_after_s=0.001))
    listener = Recorder()
    _put(etcd, "a:1")
    resolver.subscribe(_SERVICE, listener)
    await listener.hears("a:1")

    etcd.kill9()
    etcd.restart(empty=True)
    etcd.put(f"{_SERVICE}/a:1", encode_value(Endpoint("a:1", weight=7)))

    await eventually(lambda: [each.weight for each in listener.last.endpoints] == [7])
    await resolver.close()
