"""A real cluster of three, whose members die and freeze under those who use it."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from discovery import EtcdClient, EtcdClientConfig
from discovery.etcd_types import UnavailableError
from tests.balancer.echo import EchoServer
from tests.discovery.conftest import StartParty
from tests.discovery.helpers import happens
from tests.discovery.party import SERVICE, TTL_S, Party, key_of, stays, value_of
from tests.discovery.proxy import TcpProxy
from tests.discovery.traffic import Traffic
from tests.support.etcd import EtcdProcess
from tests.support.etcd_cluster import EtcdCluster
from tests.support.waiting import eventually

# The promise is under a second; the machine that tests may be busy.
_FAILOVER_S = 1.0
_AFTER_ELECTION_S = 3.0
_FROZEN_S = 25.0
_BACK_S = 10.0
_SLACK_S = 1.0
_LOOK_EVERY_S = 0.02


@pytest_asyncio.fixture
async def servers() -> AsyncIterator[list[EchoServer]]:
    """Two servers that can be called."""
    servers = [await EchoServer(name).start() for name in (b"one", b"two")]
    yield servers
    for server in servers:
        await server.stop()


def _starting_at(member: EtcdProcess, cluster: EtcdCluster) -> list[str]:
    """All endpoints, `member` first, so that it is the one connected to."""
    return [each.endpoint for each in (member, *cluster.others(member))]


async def _in_service(one: Party, servers: Sequence[EchoServer]) -> list[str]:
    """Registers `servers` with `one`, and waits until that is heard."""
    addresses = sorted(server.address for server in servers)
    for address in addresses:
        await one.register(address)
    await one.heard.hears(*addresses)
    return addresses


async def _kill_while_connected(
    victim: EtcdProcess, cluster: EtcdCluster, one: Party, servers: Sequence[EchoServer]
) -> float:
    """Kills `victim`, to which `one` is connected; seconds until the next change is heard.

    Counted from the kill, or from the end of the election that it made necessary.
    """
    addresses = await _in_service(one, servers)
    assert victim.watchers() == 1
    led = cluster.leader() is victim
    # Whoever writes has to wait for an election; only what follows is ours.
    writer = next(member for member in cluster.members if member is not victim)
    async with Traffic(SERVICE, one.resolver) as traffic:
        await eventually(lambda: len(traffic.answered) == len(servers))
        victim.kill9()
        since = time.monotonic()
        await asyncio.to_thread(cluster.leader)
        if led:
            since = time.monotonic()
        writer.put(key_of("z:9"), value_of("z:9"))
        await one.heard.hears(*addresses, "z:9")
        took_s = time.monotonic() - since
        await _outlives_its_lease(one, addresses)

    assert len(addresses) <= min(len(state.endpoints) for state in one.heard.states[-3:])
    assert [] == traffic.failures
    return took_s


async def _outlives_its_lease(one: Party, addresses: Sequence[str]) -> None:
    """Watches for longer than a TTL that nobody goes."""
    await stays(lambda: set(addresses) <= set(one.heard.addresses), 1.5 * TTL_S)


async def _is_never_away_for_long(one: Party, addresses: Sequence[str]) -> None:
    """Watches for longer than a TTL; who goes has to be back within another."""
    until, gone_at = time.monotonic() + 1.5 * TTL_S, dict[str, float]()
    while (now := time.monotonic()) < until or gone_at:
        there = set(one.heard.addresses)
        gone_at = {a: gone_at.get(a, now) for a in addresses if a not in there}
        assert all(now - since < TTL_S + _SLACK_S for since in gone_at.values())
        await asyncio.sleep(_LOOK_EVERY_S)


async def test_row_20_the_connected_follower_is_killed(
    cluster: EtcdCluster, party: StartParty, servers: list[EchoServer]
) -> None:
    """The next change comes through another member at once; no call and no one is lost."""
    follower = cluster.followers()[0]
    one = party(_starting_at(follower, cluster))

    assert await _kill_while_connected(follower, cluster, one, servers) < _FAILOVER_S


async def test_row_20_the_leader_is_killed(
    cluster: EtcdCluster, party: StartParty, servers: list[EchoServer]
) -> None:
    """After the election it is the same for those who were connected to the leader."""
    leader = cluster.leader()
    one = party(_starting_at(leader, cluster))

    assert await _kill_while_connected(leader, cluster, one, servers) < _AFTER_ELECTION_S


@pytest.mark.timeout(180)
async def test_row_20_the_leader_is_stopped_for_25_seconds(
    cluster: EtcdCluster, party: StartParty, servers: list[EchoServer]
) -> None:
    """Wherever one is connected: no endpoint is away, no call fails, a change is heard.

    When it wakes, a leader of etcd before 3.4.28 or 3.5.10 may revoke leases that others
    renewed (etcd-io/etcd#15247): whom it takes is back within a TTL.
    """
    leader = cluster.leader()
    parties = [party(_starting_at(member, cluster)) for member in cluster.members]
    everybody = await _in_service(parties[0], servers)
    for one in parties:
        await one.heard.hears(*everybody)
    states_before = [len(one.heard.states) for one in parties]

    async with AsyncExitStack() as stack:
        traffic = [
            await stack.enter_async_context(Traffic(SERVICE, one.resolver)) for one in parties
        ]
        frozen_at = time.monotonic()
        leader.freeze()
        writer = await asyncio.to_thread(cluster.leader)
        writer.put(key_of("z:9"), value_of("z:9"))
        for one in parties:
            await one.hears_of("z:9", timeout_s=_FROZEN_S)
        await stays(lambda: True, frozen_at + _FROZEN_S - time.monotonic())
        for one, before in zip(parties, states_before, strict=True):
            await one.heard.hears(*everybody, "z:9")
            assert all(
                len(state.endpoints) >= len(everybody) for state in one.heard.states[before:]
            )

        leader.thaw()
        for one in parties:
            await _is_never_away_for_long(one, everybody)
    assert [[], [], []] == [each.failures for each in traffic]


async def test_row_21_quorum_is_lost_and_returns(
    cluster: EtcdCluster, party: StartParty, servers: list[EchoServer]
) -> None:
    """Calls go on, nobody is lost, and what could not register then registers at once."""
    survivor, *victims = cluster.members
    one = party(_starting_at(survivor, cluster))
    addresses = await _in_service(one, servers)
    before = len(one.heard.states)
    async with Traffic(SERVICE, one.resolver) as traffic:
        await eventually(lambda: len(traffic.answered) == len(servers))
        for victim in victims:
            victim.kill9()
        await one.heard.hears_error()
        late = asyncio.ensure_future(one.register("z:9"))
        await _outlives_its_lease(one, addresses)

        assert await asyncio.to_thread(cluster.launch, victims)
        back_at = time.monotonic()
        await late
        await one.heard.hears(*addresses, "z:9")
        assert time.monotonic() - back_at < _BACK_S
        await _outlives_its_lease(one, addresses)

    lost = [state for state in one.heard.states[before:] if state.error]
    assert len(servers) == min(len(state.endpoints) for state in lost)
    assert [] == traffic.failures


async def test_row_21_all_of_etcd_is_down_and_back(
    cluster: EtcdCluster, party: StartParty, servers: list[EchoServer]
) -> None:
    """For longer than a TTL: no call fails, and all are registered soon after."""
    one = party(cluster.endpoints)
    addresses = await _in_service(one, servers)
    before = len(one.heard.states)
    async with Traffic(SERVICE, one.resolver) as traffic:
        await eventually(lambda: len(traffic.answered) == len(servers))
        for member in cluster.members:
            member.kill9()
        await one.heard.hears_error()
        await _outlives_its_lease(one, addresses)

        assert await asyncio.to_thread(cluster.launch, cluster.members)
        back_at = time.monotonic()
        member = cluster.members[0]
        await eventually(lambda: member.entries(SERVICE).keys() >= set(_keys(addresses)))
        await one.heard.hears(*addresses)
        assert time.monotonic() - back_at < _BACK_S
        await _outlives_its_lease(one, addresses)

    assert all(len(state.endpoints) == len(servers) for state in one.heard.states[before:])
    assert [] == traffic.failures


async def test_row_22_a_lease_expires_while_its_process_lives(
    cluster: EtcdCluster, party: StartParty
) -> None:
    """Cut off for longer than the TTL it is gone for others, and back within a TTL."""
    watching = party(cluster.endpoints)
    async with TcpProxy(cluster.members[0].endpoint) as path:
        cut_off = party([path.endpoint])
        registration = await cut_off.register("a:1")
        await watching.heard.hears("a:1")

        await path.cut()
        await watching.heard.hears()
        await path.heal()
        healed_at = time.monotonic()
        await watching.heard.hears("a:1")

        # A backoff that was under way may be as long as a second more.
        assert time.monotonic() - healed_at < TTL_S + 1
        await happens(registration.registered)


async def test_row_22_every_lease_is_revoked_at_once(
    cluster: EtcdCluster, party: StartParty, servers: list[EchoServer]
) -> None:
    """All are registered again within a TTL, and meanwhile no call fails."""
    one = party(cluster.endpoints)
    addresses = sorted(server.address for server in servers)
    for address in addresses:
        await party(cluster.endpoints).register(address)
    await one.heard.hears(*addresses)
    async with Traffic(SERVICE, one.resolver) as traffic:
        await eventually(lambda: len(traffic.answered) == len(servers))
        member = cluster.members[0]
        old = member.leases()
        for lease_id in old:
            member.revoke(lease_id)
        revoked_at = time.monotonic()
        await eventually(lambda: member.entries(SERVICE).keys() == set(_keys(addresses)))
        assert time.monotonic() - revoked_at < TTL_S + 1
        await one.heard.hears(*addresses)

    assert not set(old) & set(member.leases())
    assert [] == traffic.failures


async def test_row_23_the_watch_is_compacted_while_disconnected(
    cluster: EtcdCluster, party: StartParty
) -> None:
    """After a full list nothing is stale and nothing missing, within five seconds."""
    member = cluster.members[0]
    for address in ("a:1", "b:2"):
        member.put(key_of(address), value_of(address))
    async with TcpProxy(member.endpoint) as path:
        one = party([path.endpoint])
        await one.heard.hears("a:1", "b:2")

        await path.cut()
        await one.heard.hears_error()
        member.delete(key_of("a:1"))
        member.put(key_of("c:3"), value_of("c:3"))
        member.compact()
        await path.heal()

        healed_at = time.monotonic()
        await one.heard.hears("b:2", "c:3")
        assert time.monotonic() - healed_at < 5.0


async def test_a_member_that_lost_its_leader_ends_the_watch(cluster: EtcdCluster) -> None:
    """It would be silent for as long as the others are away; `hasleader` makes it speak."""
    alone = cluster.followers()[0]
    client = EtcdClient([alone.endpoint], config=EtcdClientConfig(request_timeout_s=5.0))
    async with client.watch(b"a", after_revision=0) as watch:
        for member in cluster.others(alone):
            member.freeze()
        with pytest.raises(UnavailableError, match="leader"):
            await watch.next(15.0)
    with pytest.raises(UnavailableError):
        await client.get(b"a")
    await client.close()


async def test_all_members_are_used_in_turn(cluster: EtcdCluster, party: StartParty) -> None:
    """One after the other dies and returns, and whoever is connected to it goes on."""
    one = party(cluster.endpoints)
    registered = []
    for number, member in enumerate(cluster.members, start=1):
        member.kill9()
        registered.append(f"a:{number}")
        await one.register(registered[-1])
        await one.hears_of(*registered)
        await asyncio.to_thread(member.start)

    await one.heard.hears(*registered)


def _keys(addresses: Sequence[str]) -> list[str]:
    return [key_of(address) for address in addresses]
