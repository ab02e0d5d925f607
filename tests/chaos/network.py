"""The links between the processes of the mesh: a proxy of ours in each.

A service registers the proxy before it instead of its own address, and reaches etcd
through another proxy. So whatever two processes say to each other can be cut, silenced in
one direction or both, and made late, without privileges.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from services.launcher.ports import Ports
from tests.chaos.faults import ETCD, Fault, Kind, Victim
from tests.discovery.proxy import TcpProxy


class _Effect(NamedTuple):
    """What one fault does to one link; `requests` and `replies` are kept back."""

    cut: bool
    delay_s: float
    requests: bool
    replies: bool


class Network:
    """See the module's docstring."""

    def __init__(self, ports: Ports, first_port: int) -> None:
        self._ports = ports
        self._first_port = first_port
        self._inward: dict[str, TcpProxy] = {}
        self._to_etcd: dict[str, TcpProxy] = {}
        self._upstreams: dict[TcpProxy, str] = {}
        self._held: dict[TcpProxy, dict[tuple[Fault, Victim], _Effect]] = {}
        self._changing = asyncio.Lock()

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
        """Does to the victim's links what the fault says, beside what others do to them."""
        for link, effect in self._effects(fault, victim):
            self._held.setdefault(link, {})[fault, victim] = effect
            await self._apply(link)

    async def repair(self, fault: Fault, victim: Victim) -> None:
        """Undoes it; what other faults do to the same links stays."""
        for link, _ in self._effects(fault, victim):
            self._held.get(link, {}).pop((fault, victim), None)
            await self._apply(link)

    async def _apply(self, link: TcpProxy) -> None:
        """Brings a link to what all its faults come to, one at a time: to open one takes a while.

        A direction that stays silent is not let go in between, or it would let something through.
        """
        async with self._changing:
            held = list(self._held.get(link, {}).values())
            requests = any(each.requests for each in held)
            replies = any(each.replies for each in held)
            link.delay_s = sum(each.delay_s for each in held)
            link.freeze(requests=requests, replies=replies)
            link.thaw(requests=not requests, replies=not replies)
            await (link.cut() if any(each.cut for each in held) else link.accept())

    def _effects(self, fault: Fault, victim: Victim) -> list[tuple[TcpProxy, _Effect]]:
        """What the fault does to which link."""
        deaf, mute = fault.kind is Kind.DEAF, fault.kind is Kind.MUTE
        silent = fault.kind is Kind.SILENCE
        effect = _Effect(
            cut=fault.kind is Kind.CUT,
            delay_s=fault.amount if fault.kind is Kind.SLOW else 0.0,
            requests=silent or deaf,
            replies=silent or mute,
        )
        if victim.role == ETCD:
            return [(link, effect) for link in self._to_etcd.values()]
        # What gets to a process are requests through one link and replies through the other.
        other_way = effect._replace(requests=effect.replies, replies=effect.requests)
        own, etcd = self._inward.get(victim.name), self._to_etcd.get(victim.name)
        both = ((own, effect), (etcd, other_way))
        return [(link, does) for link, does in both if link is not None]

    def _link(self, links: dict[str, TcpProxy], name: str, address: str) -> str:
        """One link for each name; raises ValueError when it leads elsewhere already."""
        if name not in links:
            port, _ = self._ports.take(self._first_port, f"the link of {name}")
            links[name] = TcpProxy(address, port=port)
            self._upstreams[links[name]] = address
        if self._upstreams[links[name]] != address:
            raise ValueError(f"{name} is at {address}: the port that it was to have is taken")
        return links[name].endpoint

    def _all(self) -> list[TcpProxy]:
        return [*self._inward.values(), *self._to_etcd.values()]
