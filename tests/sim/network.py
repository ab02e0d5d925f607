"""A network that delays, loses, repeats, reorders and cuts, and calls that go over it.

A call is a request and a reply, each with a fate of its own. A request may come twice, or
long after its caller has given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from tests.sim.loop import Process, SimLoop
from tests.sim.plan import Weather
from txn.errors import Unreachable

T = TypeVar("T")

LATE_MAX_S = 20.0
# How long a refused connection takes.
REFUSED_S = 0.000_5


class Host(Protocol):
    """What there is at an address: a program, or what is left of it."""

    @property
    def process(self) -> Process | None:
        """Its process, when there is one."""


Serve = Callable[[Any], Awaitable[T]]


class Network:
    """See the module's docstring. Addresses are names of hosts."""

    def __init__(
        self,
        loop: SimLoop,
        seed: int,
        weather: Weather,
        note: Callable[..., None],
    ) -> None:
        self.loop = loop
        self._seed = seed
        self.weather = weather
        self._note = note
        self.hosts: dict[str, Host] = {}
        # Directed pairs over which nothing comes, with how many cuts there are.
        self.cuts: dict[tuple[str, str], int] = {}
        self.under_way = 0
        self._links: dict[tuple[str, str], Random] = {}

    async def call(
        self,
        source: str,
        target: str,
        serve: Serve[T],
        timeout_s: float,
        *,
        what: object,
        left: Callable[[T], None] = lambda result: None,
    ) -> T:
        """Calls `serve` at the target's host; raises Unreachable when no answer comes in time.

        What `serve` raises is raised here. `left` sees each answer as it leaves the target.
        """
        call = _Call(self, source, target, serve, left, what)
        self.send(source, target, call.arrive, None, what)
        try:
            async with asyncio.timeout(timeout_s):
                return await call.answer
        except TimeoutError:
            if self.link(source, target).random() < self.weather.cancels:
                self.send(source, target, call.cancel, None, "cancel")
            raise Unreachable("DEADLINE_EXCEEDED") from None

    def cut(self, source: str, target: str) -> None:
        """Nothing comes from one to the other any more."""
        self.cuts[source, target] = self.cuts.get((source, target), 0) + 1

    def heal(self, source: str, target: str) -> None:
        """One cut less."""
        self.cuts[source, target] -= 1

    def send(
        self,
        source: str,
        target: str,
        arrive: Callable[[], None],
        to: Process | None,
        what: object,
    ) -> None:
        """Lets `arrive` be called at the target, never, later, or twice.

        It runs in the process `to`, or in the simulator's own.
        """
        weather, link = self.weather, self.link(source, target)
        if self.cuts.get((source, target)) or link.random() < weather.loss:
            self._note("lost", source, target, what)
            return
        self._deliver(link, weather, source, target, arrive, to, what)
        if link.random() < weather.twice:
            self._note("twice", source, target, what)
            self._deliver(link, weather, source, target, arrive, to, what)

    def _deliver(
        self,
        link: Random,
        weather: Weather,
        source: str,
        target: str,
        arrive: Callable[[], None],
        to: Process | None,
        what: object,
    ) -> None:
        delay_s = link.expovariate(1.0) * weather.delay_s
        if weather.late and link.random() < weather.late:
            delay_s += link.random() * link.choice((0.5, 5.0, LATE_MAX_S))

        def now() -> None:
            self.under_way -= 1
            self._note("comes", source, target, what)
            if to is None:
                arrive()
            else:
                self.loop.call_soon(arrive, context=to.context)

        self.under_way += 1
        self.loop.call_later(delay_s, now, context=self.loop.world.context)

    def link(self, source: str, target: str) -> Random:
        """Each direction has its own luck, so that leaving one thing out changes little else."""
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = Random(f"net/{self._seed}/{source}/{target}")
        return link


class _Call(Generic[T]):
    """One call: who waits for its answer, and what works on one."""

    def __init__(
        self,
        network: Network,
        source: str,
        target: str,
        serve: Serve[T],
        left: Callable[[T], None],
        what: object,
    ) -> None:
        self._network = network
        self._caller = network.loop.current()
        self._way_back = target, source
        self._serve = serve
        self._left = left
        self._what = what
        self._handlers: list[asyncio.Task[None]] = []
        self.answer: asyncio.Future[T] = network.loop.create_future()

    def arrive(self) -> None:
        """The request has come, perhaps not for the first time."""
        network = self._network
        host = network.hosts[self._way_back[0]]
        process = host.process
        if process is not None:
            handling = self._handle(host)
            self._handlers.append(network.loop.create_task(handling, context=process.context))
        elif network.link(*self._way_back).random() < network.weather.refused:
            self._fail(Unreachable("REFUSED"))

    def cancel(self) -> None:
        """Nobody waits any more."""
        for handler in self._handlers:
            handler.cancel()

    async def _handle(self, host: Host) -> None:
        try:
            result = await self._serve(host)
        except Exception as error:  # noqa: BLE001 - it belongs to the caller
            self._fail(error)
        else:
            self._left(result)
            self._reply(lambda: self.answer.set_result(result))

    def _fail(self, error: Exception) -> None:
        self._reply(lambda: self.answer.set_exception(error))

    def _reply(self, give: Callable[[], None]) -> None:
        def arrive() -> None:
            if not self.answer.done():
                give()

        self._network.send(*self._way_back, arrive, self._caller, self._what)
