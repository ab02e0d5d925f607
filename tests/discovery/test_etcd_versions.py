"""What discovery relies on, against each version of etcd that the machine has."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from discovery import EtcdClient, EtcdResolverConfig
from discovery.etcd_config import EtcdClientConfig
from discovery.etcd_types import (
    CompactedError,
    LeaseNotFoundError,
    PermissionDeniedError,
    StoreRolledBackError,
    UnauthenticatedError,
)
from tests.discovery.conftest import StartParty
from tests.discovery.party import SERVICE, TTL_S, key_of, stays, value_of
from tests.discovery.proxy import TcpProxy
from tests.support.etcd import EtcdOptions, EtcdProcess
from tests.support.etcd_binary import etcd_of_version
from tests.support.waiting import eventually

_PREFIX = b"tallystick/"


@pytest.fixture(params=["3.4", "3.5", "3.6"])
def etcd(request: pytest.FixtureRequest) -> Iterator[EtcdProcess]:
    """A fresh etcd of each version."""
    with EtcdProcess(EtcdOptions(binary=etcd_of_version(request.param))) as process:
        yield process


@pytest_asyncio.fixture
async def client(etcd: EtcdProcess) -> AsyncIterator[EtcdClient]:
    """A client of `etcd`."""
    client = EtcdClient([etcd.endpoint])
    yield client
    await client.close()


async def test_what_registers_is_heard_and_leaves(etcd: EtcdProcess, party: StartParty) -> None:
    """One registers under a lease, another hears of it, and hears it go."""
    one, other = party([etcd.endpoint]), party([etcd.endpoint])
    registration = await one.register("a:1")
    await other.heard.hears("a:1")
    assert etcd.lease_of(key_of("a:1"))

    await registration.deregister()
    await other.heard.hears()


async def test_it_is_killed_and_started(etcd: EtcdProcess, party: StartParty) -> None:
    """Registrations outlive it, their leases too, and changes are heard again."""
    one = party([etcd.endpoint])
    await one.register("a:1")
    await one.heard.hears("a:1")

    etcd.kill9()
    await one.heard.hears_error()
    etcd.start()
    etcd.put(key_of("b:2"), value_of("b:2"))

    await one.heard.hears("a:1", "b:2")
    await stays(lambda: key_of("a:1") in etcd.entries(SERVICE), 1.5 * TTL_S)
    assert 1 == min(len(state.endpoints) for state in one.heard.states if state.error)


async def test_it_comes_back_empty(etcd: EtcdProcess, party: StartParty) -> None:
    """A store that lost everything is filled again, and its revisions, lower than ours, watched."""
    one = party([etcd.endpoint])
    for port in range(1, 9):
        etcd.put(key_of(f"b:{port}"), value_of(f"b:{port}"))
    await one.register("a:1")
    await one.hears_of("a:1", "b:8")

    etcd.restart(empty=True)

    await eventually(lambda: list(etcd.entries(SERVICE)) == [key_of("a:1")])
    await one.heard.hears("a:1")
    etcd.put(key_of("c:3"), value_of("c:3"))
    await one.heard.hears("a:1", "c:3")


async def test_it_is_compacted_while_we_are_away(etcd: EtcdProcess, party: StartParty) -> None:
    """Nothing is stale and nothing missing after the path heals."""
    for address in ("a:1", "b:2"):
        etcd.put(key_of(address), value_of(address))
    async with TcpProxy(etcd.endpoint) as path:
        one = party([path.endpoint])
        await one.heard.hears("a:1", "b:2")

        await path.cut()
        await one.heard.hears_error()
        etcd.delete(key_of("a:1"))
        etcd.put(key_of("c:3"), value_of("c:3"))
        etcd.compact()
        await path.heal()

        await one.heard.hears("b:2", "c:3")
        etcd.put(key_of("d:4"), value_of("d:4"))
        await one.heard.hears("b:2", "c:3", "d:4")


async def test_a_watch_from_a_compacted_revision_is_refused(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """Created and cancelled, in one reply or in two: we are told from where there is history."""
    for number in range(4):
        etcd.put("tallystick/x", str(number).encode())
    compacted = etcd.compact()

    with pytest.raises(CompactedError) as refusal:
        async with client.watch(_PREFIX, after_revision=0) as watch:
            await watch.next(5.0)

    assert compacted == refusal.value.compact_revision


async def test_a_watch_ahead_of_the_store_is_refused(client: EtcdClient) -> None:
    """The version that waits in silence is found out as well."""
    with pytest.raises(StoreRolledBackError):
        async with client.watch(_PREFIX, after_revision=999) as watch:
            await watch.next(5.0)


async def test_a_silent_watch_is_probed(etcd: EtcdProcess, client: EtcdClient) -> None:
    """A progress request is answered by a batch without events, as often as we ask."""
    # etcd 3.6 answers only where the store has reached the start, and the watch the store.
    before = etcd.revision()
    async with client.watch(_PREFIX, after_revision=before) as watch:
        etcd.put("tallystick/x", b"")
        await watch.next(5.0)
        for _ in range(3):
            await watch.request_progress()
            batch = await watch.next(5.0)
            assert batch is not None
            assert () == batch.events


async def test_a_revoked_lease_is_known_to_be_gone(etcd: EtcdProcess, client: EtcdClient) -> None:
    """Renewing it says so at once, or its keys are seen to be missing."""
    lease = await client.lease_grant(TTL_S)
    await client.put(b"tallystick/x", b"", lease_id=lease.lease_id)
    async with client.keepalive(lease.lease_id) as renewals:
        assert await renewals.renew(2.0) > 0
        etcd.revoke(lease.lease_id)

        with pytest.raises(LeaseNotFoundError):
            await renewals.renew(2.0)

    assert await client.get(b"tallystick/x") is None


async def test_a_registration_whose_lease_is_revoked_is_made_again(
    etcd: EtcdProcess, party: StartParty
) -> None:
    """Under another lease, within a TTL."""
    one = party([etcd.endpoint])
    await one.register("a:1")
    old_lease = etcd.lease_of(key_of("a:1"))

    etcd.revoke(old_lease)

    await eventually(lambda: etcd.lease_of(key_of("a:1")) not in (0, old_lease), TTL_S)


async def test_users_are_told_apart(etcd: EtcdProcess) -> None:
    """However a version puts it: a stranger, a wrong password, and a key that is forbidden."""
    etcd.add_user("ledger", "right", "tallystick/")
    etcd.enable_auth()
    expected = {
        "": UnauthenticatedError,
        "wrong": UnauthenticatedError,
        "right": PermissionDeniedError,
    }

    for password, error in expected.items():
        username = "ledger" if password else ""
        client = EtcdClient(
            [etcd.endpoint], config=EtcdClientConfig(username=username, password=password)
        )
        with pytest.raises(error):
            await client.put(b"elsewhere/x", b"")
        await client.close()


async def test_a_watch_of_an_idle_store_is_not_replaced(
    etcd: EtcdProcess, party: StartParty
) -> None:
    """Where nothing is ever written probes are answered too, so one watch goes on and on."""
    idle = EtcdResolverConfig(probe_after_s=0.2, probe_timeout_s=0.5)
    one = party([etcd.endpoint], resolver_config=idle)
    await one.heard.hears()

    await stays(lambda: one.heard.last.error is None, 3.0)

    assert 1 == etcd.calls("Watch")
