"""Links between processes: what is done to one is felt by who uses it, in the direction it has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

import pytest

from services.launcher.ports import HOST, Ports
from tests.chaos.faults import ETCD, Fault, Kind, Victim
from tests.chaos.network import Network
from tests.launcher.conftest import free_block

LEDGER = Victim("ledger", 0)
SILENT_S = 0.2
DELAY_S = 0.3


class Server:
    """Echoes lines, and remembers them."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.address = f"{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.heard.append(line)
            writer.write(line)
        writer.close()


class Caller:
    """One connection through a link."""

    async def connect(self, address: str) -> Caller:
        """Opens it. Raises OSError."""
        host, _, port = address.rpartition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        return self

    def say(self) -> None:
        """One line."""
        self._writer.write(b"line\n")

    async def hears(self, timeout_s: float = 5.0) -> bytes | None:
        """What comes back; nothing for a broken connection, None for silence."""
        try:
            return await asyncio.wait_for(self._reader.readline(), timeout_s)
        except TimeoutError:
            return None
        except OSError:
            return b""


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Stands for the process that is cut off."""
    async with Server() as running:
        yield running


@pytest.fixture
async def network(server: Server) -> AsyncIterator[Network]:
    """One service, and its way to an etcd for which the same server stands."""
    first = free_block()
    links = Network(Ports([first]), first)
    links.inward(LEDGER.name, server.address)
    links.to_etcd(LEDGER.name, server.address)
    await links.open()
    yield links
    await links.close()


def _fault(kind: Kind, amount: float = 0.0) -> Fault:
    return Fault(kind, (LEDGER,), 0.0, 1.0, amount)


async def test_whoever_is_cut_off_is_refused_until_it_is_healed(
    server: Server, network: Network
) -> None:
    """Connections break, new ones are refused, and afterwards it is as before."""
    address = network.inward(LEDGER.name, server.address)
    caller = await Caller().connect(address)
    fault = _fault(Kind.CUT)
    await network.impair(fault, LEDGER)
    assert b"" == await caller.hears()
    with pytest.raises(OSError, match="Connect call failed"):
        await Caller().connect(address)
    await network.repair(fault, LEDGER)
    caller = await Caller().connect(address)
    caller.say()
    assert b"line\n" == await caller.hears()


@pytest.mark.parametrize(
    ("kind", "heard_inward", "heard_at_etcd"),
    [(Kind.SILENCE, 0, 0), (Kind.DEAF, 0, 1), (Kind.MUTE, 1, 0)],
)
async def test_each_direction_goes_silent_by_itself(
    server: Server, network: Network, kind: Kind, heard_inward: int, heard_at_etcd: int
) -> None:
    """Who is deaf asks etcd and hears no answer; who is mute hears requests and answers none."""
    fault = _fault(kind)
    await network.impair(fault, LEDGER)
    for address, heard in (
        (network.inward(LEDGER.name, server.address), heard_inward),
        (network.to_etcd(LEDGER.name, server.address), heard_at_etcd),
    ):
        server.heard.clear()
        caller = await Caller().connect(address)
        caller.say()
        assert await caller.hears(SILENT_S) is None
        assert heard == len(server.heard)
        await network.repair(fault, LEDGER)
        assert b"line\n" == await caller.hears()
        await network.impair(fault, LEDGER)


async def test_whoever_is_slow_is_late_both_ways(server: Server, network: Network) -> None:
    """A request and its reply, by the delay each."""
    await network.impair(_fault(Kind.SLOW, DELAY_S), LEDGER)
    caller = await Caller().connect(network.inward(LEDGER.name, server.address))
    started_s = asyncio.get_running_loop().time()
    caller.say()
    assert b"line\n" == await caller.hears()
    assert asyncio.get_running_loop().time() - started_s >= 2 * DELAY_S


async def test_what_is_done_to_etcd_is_felt_on_every_way_to_it(
    server: Server, network: Network
) -> None:
    """And on no other."""
    await network.impair(_fault(Kind.SILENCE), Victim(ETCD, 0))
    to_etcd = await Caller().connect(network.to_etcd(LEDGER.name, server.address))
    to_etcd.say()
    assert await to_etcd.hears(SILENT_S) is None
    inward = await Caller().connect(network.inward(LEDGER.name, server.address))
    inward.say()
    assert b"line\n" == await inward.hears()


async def test_the_end_of_one_fault_is_not_the_end_of_another(
    server: Server, network: Network
) -> None:
    """A process is silenced, and etcd is silenced and cut off: its link has all three."""
    silence, etcd = _fault(Kind.SILENCE), Victim(ETCD, 0)
    address = network.to_etcd(LEDGER.name, server.address)
    await network.impair(silence, LEDGER)
    await network.impair(silence, etcd)
    await network.impair(_fault(Kind.CUT), etcd)
    await network.repair(silence, etcd)
    with pytest.raises(OSError, match="Connect call failed"):
        await Caller().connect(address)
    await network.repair(_fault(Kind.CUT), etcd)
    caller = await Caller().connect(address)
    caller.say()
    assert await caller.hears(SILENT_S) is None
    assert [] == server.heard
    await network.repair(silence, LEDGER)
    assert b"line\n" == await caller.hears()


async def test_faults_that_begin_and_end_at_once_leave_what_lasts(
    server: Server, network: Network
) -> None:
    """Whoever opens the link meanwhile does not open it for those who hold it shut."""
    first, second = _fault(Kind.CUT), Fault(Kind.CUT, (LEDGER,), 1.0, 1.0)
    await network.impair(first, LEDGER)
    await asyncio.gather(network.repair(first, LEDGER), network.impair(second, LEDGER))
    address = network.inward(LEDGER.name, server.address)
    with pytest.raises(OSError, match="Connect call failed"):
        await Caller().connect(address)


async def test_a_link_leads_to_one_address(network: Network) -> None:
    """A process that did not get its port must not be taken for the one that has it."""
    with pytest.raises(ValueError, match="is taken"):
        network.inward(LEDGER.name, "127.0.0.1:1")
