"""A channel over real servers and a list that changes, against who is up and who is listed.

Servers stop and come back on their ports; the list loses, gets back, drains and withdraws them;
whoever is asked for an answer gets it from those that may give one, and from nobody else.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from grpc import ChannelConnectivity
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

import balancer
from balancer import BalancedChannel, ChannelConfig
from discovery.endpoint import Endpoint
from discovery.testing import FakeResolver
from tests.balancer.calls import served_by
from tests.balancer.echo import EchoServer
from tests.fuzz.machines import AsyncMachine, tried
from tests.support.waiting import eventually

SERVICE = "tallystick/ledger"
NAMES = ["a", "b", "c"]
CONFIG = ChannelConfig(initial_backoff_s=0.01, max_backoff_s=0.02, linger_s=0.0, drain_grace_s=0.1)

_NAMES = st.sampled_from(NAMES)


class ChannelMachine(AsyncMachine):
    """Subchannels follow their servers, and the list."""

    @initialize()
    def begin(self) -> None:
        """All are up, and none is listed."""
        self.up = set(NAMES)
        self.listed: dict[str, bool] = {}
        self.withdrawn: set[str] = set()
        self.enter(self._opened())

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        self.resolver = FakeResolver()
        self.servers = {name: await EchoServer(name.encode()).start() for name in NAMES}
        self.channel: BalancedChannel = balancer.channel(
            f"etcd:///{SERVICE}", resolver=self.resolver, policy="round_robin", config=CONFIG
        )
        yield
        await self.channel.close()
        for server in self.servers.values():
            await server.stop()
        del server
        self.servers.clear()
        # gRPC's servers want the loop once more when they go.
        gc.collect()

    @rule(listed=st.dictionaries(_NAMES, st.booleans()), withdraw=st.booleans())
    def resolve(self, listed: dict[str, bool], *, withdraw: bool) -> None:
        """Who serves, and who of them drains; who is missing may be withdrawn or gone."""
        known = (self.listed.keys() | self.withdrawn) - listed.keys()
        ready = {name for name in known if name in self.up and not self.listed.get(name)}
        self.withdrawn = ready if withdraw else set()
        self.listed = listed
        self.run(self._set())

    async def _set(self) -> None:
        self.resolver.set(
            SERVICE,
            [Endpoint(self.servers[name].address, draining=d) for name, d in self.listed.items()],
            withdrawn=[self.servers[name].address for name in self.withdrawn],
        )

    @rule(name=_NAMES)
    def turn(self, name: str) -> None:
        """A server dies, or is there again; nobody connects again to who was withdrawn."""
        if name in self.up:
            self.up.discard(name)
            self.withdrawn.discard(name)
            self.run(self.servers[name].stop())
        else:
            self.up.add(name)
            self.run(self.servers[name].start())

    def _may_serve(self) -> set[str]:
        listed = {name for name, drains in self.listed.items() if not drains}
        wanted = (listed | self.withdrawn) & self.up
        return wanted or self.listed.keys() & self.up

    @invariant()
    def calls_go_to_who_may_serve(self) -> None:
        """And the channel is ready where there is one, and not where there is none."""
        expected = self._may_serve()

        async def settled() -> None:
            await eventually(lambda: (self.channel.get_state() is READY) is bool(expected))
            if expected:
                await eventually(self._is_spread_over(expected))

        self.run(settled())

    def _is_spread_over(self, expected: set[str]) -> Callable[[], Awaitable[bool]]:
        async def is_so() -> bool:
            return set(await served_by(self.channel, 2 * len(expected))) == expected

        return is_so


READY = ChannelConnectivity.READY


def test_a_channel_follows_its_servers_and_its_list() -> None:
    """Whatever dies, comes back, is listed, drains or is withdrawn."""
    run_state_machine_as_test(ChannelMachine, settings=tried(3))
