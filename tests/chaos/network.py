"""The links between the processes of the mesh: a proxy of ours in each.

A service registers the proxy before it instead of its own address, and reaches etcd
through another proxy. So whatever two processes say to each other can be cut, silenced in
one direction or both, and made late, without privileges.
"""

from __future__ import annotations

import asyncio

from services.launcher.ports import Ports
from tests.chaos.faults import ETCD, Fault, Kind, Victim
from tests.discovery.proxy import TcpProxy


class Network:
    """See the module's docstring."""

    def __init__(self, ports: Ports, first_port: int) -> None:
        self._ports = ports
        self._first_port = first_port
        self._inward: dict[str, TcpProxy] = {}
        self._to_etcd: dict[str, TcpProxy] = {}
        self._upstreams: dict[TcpProxy, str] = {}

    def inward(self, name: str, address: str) -> str:
        """The address at which a process is to be reached instead of `address`."""
        return self._link(self._inward, name, address)

    def to_etcd(self, name: str, address: str) -> str:
        """The address at which a process finds etcd."""
        return self._link(self._to_etcd, name, address)

    async def open(self) -> None:
        """Lets everything flow."""
        await asyncio.gather(*(link.heal() for link in self._all()))

    async def close(self) -> None:
        """Ends every link."""
        await asyncio.gather(*(link.cut() for link in self._all()))

    async def impair(self, fault: Fault, victim: Victim) -> None:
        """Does to the victim's links what the fault says."""
        for link in self._links(victim):
            match fault.kind:
                case Kind.CUT:
                    await link.cut()
                case Kind.SLOW:
                    link.delay_s = fault.amount
                case Kind.SILENCE:
                    link.freeze()
        # What gets to a process are requests through one link and replies through the other.
        own, etcd = self._inward.get(victim.name), self._to_etcd.get(victim.name)
        deaf, mute = fault.kind is Kind.DEAF, fault.kind is Kind.MUTE
        if (deaf or mute) and victim.role == ETCD:
            for link in self._to_etcd.values():
                link.freeze(requests=deaf, replies=mute)
        elif deaf or mute:
            if own is not None:
                own.freeze(requests=deaf, replies=mute)
            if etcd is not None:
                etcd.freeze(requests=mute, replies=deaf)

    async def repair(self, victim: Victim) -> None:
        """Undoes all of it."""
        for link in self._links(victim):
            await link.heal()

    def _link(self, links: dict[str, TcpProxy], name: str, address: str) -> str:
        """One link for each name; raises ValueError when it leads elsewhere already."""
        if name not in links:
            port, _ = self._ports.take(self._first_port, f"the link of {name}")
            links[name] = TcpProxy(address, port=port)
            self._upstreams[links[name]] = address
        if self._upstreams[links[name]] != address:
            raise ValueError(f"{name} is at {address}: the port that it was to have is taken")
        return links[name].endpoint

    def _links(self, victim: Victim) -> list[TcpProxy]:
        if victim.role == ETCD:
            return list(self._to_etcd.values())
        both = (self._inward.get(victim.name), self._to_etcd.get(victim.name))
        return [link for link in both if link is not None]

    def _all(self) -> list[TcpProxy]:
        return [*self._inward.values(), *self._to_etcd.values()]
