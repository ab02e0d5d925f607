"""A network that delays, loses, repeats, reorders and cuts, and calls that go over it.

A call is a request and a reply, each with a fate of its own. A request may come twice, or
long after its caller has given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Protocol, TypeVar

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
        self._loop = loop
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
        caller = self._loop.current()
        answer: asyncio.Future[T] = self._loop.create_future()
        handlers: list[asyncio.Task[None]] = []

        def reply(give: Callable[[], None]) -> None:
            def arrive() -> None:
                if not answer.done():
                    give()

            self._send(target, source, arrive, caller, what)

        async def handle(host: Host) -> None:
            try:
                result = await serve(host)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - it belongs to the caller
                failure = error
                reply(lambda: answer.set_exception(failure))
            else:
                left(result)
                reply(lambda: answer.set_result(result))

        def arrive() -> None:
            host = self.hosts[target]
            process = host.process
            if process is None:
                if self._link(target, source).random() < self.weather.refused:
                    reply(lambda: answer.set_exception(Unreachable("REFUSED")))
                return
            handlers.append(self._loop.create_task(handle(host), context=process.context))

        self._send(source, target, arrive, None, what)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            if self._link(source, target).random() < self.weather.cancels:
                self._send(source, target, lambda: _cancel(handlers), None, "cancel")
            raise Unreachable("DEADLINE_EXCEEDED") from None

    def cut(self, source: str, target: str) -> None:
        """Nothing comes from one to the other any more."""
        self.cuts[source, target] = self.cuts.get((source, target), 0) + 1

    def heal(self, source: str, target: str) -> None:
        """One cut less."""
        self.cuts[source, target] -= 1

    def _send(
        self,
        source: str,
        target: str,
        arrive: Callable[[], None],
        to: Process | None,
        what: object,
    ) -> None:
        weather, link = self.weather, self._link(source, target)
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
                self._loop.call_soon(arrive, context=to.context)

        self.under_way += 1
        self._loop.call_later(delay_s, now, context=self._loop.world.context)

    def _link(self, source: str, target: str) -> Random:
        """Each direction has its own luck, so that leaving one thing out changes little else."""
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = Random(f"net/{self._seed}/{source}/{target}")
        return link


def _cancel(handlers: list[asyncio.Task[None]]) -> None:
    for handler in handlers:
        handler.cancel()
