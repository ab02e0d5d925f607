import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import pytest_asyncio

from discovery import (
    Endpoint,
    EtcdClient,
    EtcdClientConfig,
    EtcdResolver,
    EtcdResolverConfig,
    InvalidServiceNameError,
    Registrar,
    encode_value,
)
from discovery.testing import check_resolver
from tests.discovery.helpers import Recorder, happens
from tests.discovery.proxy import TcpProxy
from tests.support.etcd import EtcdProcess
from tests.support.waiting import eventually

_SERVICE = "tallystick/ledger"


@pytest_asyncio.fixture
async def resolver(client: EtcdClient) -> AsyncIterator[EtcdResolver]:
    """A resolver with its defaults."""
    resolver = EtcdResolver(client)
    yield resolver
    await resolver.close()


def _put(etcd: EtcdProcess, address: str, service: str = _SERVICE) -> None:
    etcd.put(f"{service}/{address}", encode_value(Endpoint(address)))


def _listen(resolver: EtcdResolver, service: str = _SERVICE) -> Recorder:
    recorder = Recorder()
    resolver.subscribe(service, recorder)
    return recorder


async def test_it_keeps_the_contract(etcd: EtcdProcess, resolver: EtcdResolver) -> None:
    """The shipped check passes, with a registry that changes."""
    _put(etcd, "b:2")
    _put(etcd, "a:1")

    async def change() -> list[Endpoint]:
        _put(etcd, "c:3")
        etcd.delete(f"{_SERVICE}/a:1")
        return [Endpoint("b:2"), Endpoint("c:3")]

    await check_resolver(
        resolver, _SERVICE, expected=[Endpoint("a:1"), Endpoint("b:2")], change=change
    )


async def test_what_registers_is_seen(client: EtcdClient, resolver: EtcdResolver) -> None:
    """An endpoint appears with all its fields, drains, and leaves."""
    listener = _listen(resolver)
    await listener.hears()
    registrar = Registrar(client)
    endpoint = Endpoint("a:1", id="l-0", zone="z", weight=3, version="1", services=("s",))

    registration = await registrar.register(_SERVICE, endpoint)
    await listener.hears("a:1")
    assert endpoint == listener.endpoint("a:1")

    await registration.drain()
    await eventually(lambda: listener.endpoint("a:1").draining)

    await registrar.close()
    await listener.hears()


async def test_an_unknown_service_is_resolved_and_empty(resolver: EtcdResolver) -> None:
    """Nobody serves it, which is known and no error."""
    listener = _listen(resolver, "tallystick/nobody")
    await eventually(lambda: listener.states)

    assert (
        listener.last.resolved,
        listener.last.endpoints,
        listener.last.error,
    ) == (True, (), None)


async def test_services_do_not_see_each_other(etcd: EtcdProcess, resolver: EtcdResolver) -> None:
    """A name that starts with ours, or lies below it, is another service."""
    _put(etcd, "a:1")
    _put(etcd, "b:2", "tallystick/ledger2")
    _put(etcd, "c:3", "tallystick/ledger/inner")

    await _listen(resolver).hears("a:1")
    await _listen(resolver, "tallystick/ledger/inner").hears("c:3")


async def test_nobody_is_lost_when_etcd_is_killed_and_started(
    etcd: EtcdProcess, client: EtcdClient, resolver: EtcdResolver
) -> None:
    """No state ever lacks an endpoint, and what changes afterwards is seen."""
    registrar = Registrar(client)
    for address in ("a:1", "b:2", "c:3"):
        await happens((await registrar.register(_SERVICE, Endpoint(address))).registered)
    listener = _listen(resolver)
    await listener.hears("a:1", "b:2", "c:3")

    etcd.kill9()
    await listener.hears_error()
    etcd.start()
    await listener.hears("a:1", "b:2", "c:3")

    assert listener.smallest == 3
    await registrar.register(_SERVICE, Endpoint("d:4"))
    await listener.hears("a:1", "b:2", "c:3", "d:4")
    assert listener.smallest == 3
    await registrar.close()


async def test_all_are_back_when_etcd_comes_back_empty(
    etcd: EtcdProcess, client: EtcdClient, resolver: EtcdResolver
) -> None:
    """A store that starts again from revision 1 is listed anew, not watched in vain."""
    registrar = Registrar(client)
    for address in ("a:1", "b:2"):
        await happens((await registrar.register(_SERVICE, Endpoint(address))).registered)
    listener = _listen(resolver)
    await listener.hears("a:1", "b:2")
    etcd.kill9()
    await listener.hears_error()

    etcd.restart(empty=True)
    await listener.hears("a:1", "b:2")

    await registrar.register(_SERVICE, Endpoint("c:3"))
    await listener.hears("a:1", "b:2", "c:3")
    await registrar.close()


async def test_it_may_start_before_etcd(etcd: EtcdProcess, resolver: EtcdResolver) -> None:
    """The first state says that nothing is known and why; then etcd comes."""
    _put(etcd, "a:1")
    etcd.kill9()
    listener = _listen(resolver)
    await listener.hears_error()
    assert not listener.last.resolved

    etcd.start()

    await listener.hears("a:1")


async def test_changes_and_a_compaction_while_cut_off_are_caught_up(etcd: EtcdProcess) -> None:
    """After the path heals nothing is stale and nothing missing."""
    _put(etcd, "a:1")
    _put(etcd, "b:2")
    async with TcpProxy(etcd.endpoint) as proxy:
        client = EtcdClient([proxy.endpoint])
        resolver = EtcdResolver(client)
        listener = _listen(resolver)
        await listener.hears("a:1", "b:2")

        await proxy.cut()
        await listener.hears_error()
        assert listener.addresses == ["a:1", "b:2"]
        etcd.delete(f"{_SERVICE}/a:1")
        _put(etcd, "c:3")
        etcd.compact()
        await proxy.heal()

        await listener.hears("b:2", "c:3")
        await resolver.close()
        await client.close()


async def test_a_compaction_under_a_live_watch_disturbs_nobody(
    etcd: EtcdProcess, resolver: EtcdResolver
) -> None:
    """Events go on after a compaction."""
    listener = _listen(resolver)
    _put(etcd, "a:1")
    await listener.hears("a:1")

    etcd.compact()
    _put(etcd, "b:2")

    await listener.hears("a:1", "b:2")


async def test_a_path_that_went_silent_is_noticed(etcd: EtcdProcess) -> None:
    """A watch on a dead connection is probed and given up, without a TCP error."""
    _put(etcd, "a:1")
    async with TcpProxy(etcd.endpoint) as proxy:
        client = EtcdClient([proxy.endpoint], config=EtcdClientConfig(request_timeout_s=0.3))
        config = EtcdResolverConfig(probe_after_s=0.1, probe_timeout_s=0.1)
        resolver = EtcdResolver(client, config=config)
        listener = _listen(resolver)
        await listener.hears("a:1")

        proxy.freeze()
        await listener.hears_error()
        _put(etcd, "b:2")
        await proxy.heal()

        await listener.hears("a:1", "b:2")
        await resolver.close()
        await client.close()


async def test_a_silent_but_living_watch_goes_on(etcd: EtcdProcess, client: EtcdClient) -> None:
    """Probes that are answered are no news, and events still arrive between them."""
    resolver = EtcdResolver(client, config=EtcdResolverConfig(probe_after_s=0.01))
    listener = _listen(resolver)
    await listener.hears()
    for port in range(1, 6):
        _put(etcd, f"a:{port}")
        await listener.hears(*(f"a:{each}" for each in range(1, port + 1)))

    assert all(state.error is None for state in listener.states)
    await resolver.close()


async def test_it_lists_again_in_any_case(etcd: EtcdProcess, client: EtcdClient) -> None:
    """Frequent full lists neither repeat a state nor lose an event."""
    config = EtcdResolverConfig(relist_every_s=0.01)
    resolver = EtcdResolver(client, config=config)
    listener = _listen(resolver)
    for port in range(1, 6):
        _put(etcd, f"a:{port}")
        await listener.hears(*(f"a:{each}" for each in range(1, port + 1)))

    changes = zip(listener.states, listener.states[1:], strict=False)
    assert all(before != after for before, after in changes)
    await resolver.close()


async def test_malformed_entries_are_skipped_counted_and_logged_once(
    etcd: EtcdProcess, client: EtcdClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage, also a megabyte of it, leaves the good ones alone."""
    resolver = EtcdResolver(client, config=EtcdResolverConfig(relist_every_s=0.05))
    _put(etcd, "a:1")
    etcd.put(f"{_SERVICE}/junk", b"\xff\0")
    etcd.put(f"{_SERVICE}/evil", b'{"Op":0,"Addr":"unix:/run/x"}')
    with caplog.at_level(logging.WARNING, "discovery"):
        listener = _listen(resolver)
        await listener.hears("a:1")
        etcd.put(f"{_SERVICE}/huge", b"x" * 1_000_000)
        _put(etcd, "b:2")
        await listener.hears("a:1", "b:2")
        await eventually(lambda: resolver.skipped_total == 3)
        _put(etcd, "c:3")
        await listener.hears("a:1", "b:2", "c:3")

    assert resolver.skipped_total == 3
    assert len([line for line in caplog.messages if "skipped" in line]) == 3
    await resolver.close()
    assert resolver.skipped_total == 3


async def test_what_goes_as_go_writes_it_is_resolved(
    etcd: EtcdProcess, resolver: EtcdResolver
) -> None:
    """An entry made by Go's manager, named freely and without a lease, is an endpoint."""
    etcd.put(f"{_SERVICE}/e1", b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":null}')

    await _listen(resolver).hears("1.2.3.4:80")


async def test_listeners_share_a_watch_that_ends_with_the_last(
    etcd: EtcdProcess, resolver: EtcdResolver
) -> None:
    """One watch serves all; without listeners none is left, and the next starts afresh."""
    first, second = Recorder(), Recorder()
    subscriptions = [resolver.subscribe(_SERVICE, each) for each in (first, second)]
    await second.hears()
    assert len(resolver._services) == 1

    for subscription in subscriptions:
        subscription.close()
    assert len(resolver._services) == 0

    _put(etcd, "a:1")
    await _listen(resolver).hears("a:1")


async def test_a_storm_of_changes_is_few_states(etcd: EtcdProcess, client: EtcdClient) -> None:
    """Listeners hear the whole, not every step towards it."""
    resolver = EtcdResolver(client, config=EtcdResolverConfig(report_every_s=10.0))
    listener = _listen(resolver)
    await listener.hears()
    for port in range(1, 101):
        await client.put(f"{_SERVICE}/a:{port}".encode(), encode_value(Endpoint(f"a:{port}")))
    await listener.hears(*(f"a:{port}" for port in range(1, 101)))

    assert len(listener.states) < 50
    await resolver.close()


async def test_closing_ends_everything(etcd: EtcdProcess, client: EtcdClient) -> None:
    """No listener is called after close, and nobody can subscribe."""
    resolver = EtcdResolver(client)
    listener = _listen(resolver)
    await listener.hears()

    await resolver.close()
    heard = len(listener.states)
    _put(etcd, "a:1")
    await client.get(b"k")

    assert heard == len(listener.states)
    with pytest.raises(RuntimeError):
        resolver.subscribe(_SERVICE, listener)


async def test_a_bad_name_is_refused_at_once(resolver: EtcdResolver) -> None:
    """The caller is told, not the log."""
    with pytest.raises(InvalidServiceNameError):
        resolver.subscribe("/bad/", Recorder())


@pytest.mark.parametrize("field", ["relist_every_s", "probe_after_s", "probe_timeout_s"])
def test_intervals_must_make_sense(field: str) -> None:
    """An interval of nothing is refused at construction."""
    with pytest.raises(ValueError, match=field):
        EtcdResolverConfig(**cast("Any", {field: 0.0}))
