"""The coordinators that serve beside this one: of one log, and each alive.

Over another log a coordinator would have its own idempotency keys, and the same request
would have two effects. So one looks into the registry before it serves, asks whom it finds
there for the name of their log, and does not start beside one of another. While it serves it
goes on asking: of two that started while the registry was away the younger one ends.

And from one of its own log that is gone it takes over (succession.py).
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

import structlog
from tallystick.txn.v1 import coordinator_service_pb2

from discovery import Endpoint, Resolver, ResolverState
from services.coordinator.asking import Asking
from services.coordinator.succession import Succession
from services.runtime import EXIT_CANNOT_START, LEASE_TTL_S, CannotStart
from txn.clock import Clock
from txn.coordinator import Coordinator

# Without an answer of the registry in this time the coordinator starts all the same: the
# registry is off the data path.
REGISTRY_WAIT_S = 2.0
# From its epoch on, until a coordinator should be registered.
GRACE_S = 3.0 * LEASE_TTL_S

_log = structlog.get_logger(__name__)


class Peers:
    """See the module's docstring. Belongs to one event loop."""

    def __init__(
        self,
        coordinator: Coordinator,
        asking: Asking,
        resolver: Resolver,
        service: str,
        *,
        address: str,
        clock: Clock,
    ) -> None:
        """Those that are registered as `service`, seen from the one at `address`."""
        self._asking = asking
        self._address = address
        self._succession = Succession(coordinator, asking.lives, clock=clock, grace_s=GRACE_S)
        self._log_id = ""
        self._state = ResolverState()
        self._news = asyncio.Event()
        # Those that are of this log, by when they were started.
        self._known: frozenset[tuple[str, str]] = frozenset()
        resolver.subscribe(service, self._on_state)

    async def admit(self, log_id: str) -> None:
        """Raises CannotStart when one is registered that does not share the log `log_id`."""
        self._log_id = log_id
        with suppress(TimeoutError):
            async with asyncio.timeout(REGISTRY_WAIT_S):
                while not self._state.resolved:
                    await self._wait_for_news()
        if not self._state.resolved:
            _log.warning("the registry does not answer: who else coordinates is not known")
        for other, why in await self._strangers():
            raise CannotStart(f"another coordinator is registered at {other.address}: {why}")

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._succession.wait_s):
                    await self._wait_for_news()
            await self._end_if_younger()
            await self._succession.look(self._registered())

    def _on_state(self, state: ResolverState) -> None:
        self._state = state
        self._news.set()

    async def _wait_for_news(self) -> None:
        await self._news.wait()
        self._news.clear()

    async def _strangers(self) -> list[tuple[Endpoint, str]]:
        """Who is registered and does not share the log, and why not."""
        others = [each for each in self._state.endpoints if each.address != self._address]
        new = [each for each in others if _name(each) not in self._known]
        answers = await asyncio.gather(*(self._asking.who(each.address) for each in new))
        found: list[tuple[Endpoint, str]] = []
        known = {_name(each) for each in others} & self._known
        for other, answer in zip(new, answers, strict=True):
            if why := self._strange(answer):
                found.append((other, why))
            elif answer is not None:
                known.add(_name(other))
        self._known = frozenset(known)
        return found

    def _strange(self, answer: coordinator_service_pb2.GetCoordinatorResponse | str | None) -> str:
        if answer is None:
            # Who does not answer is asked again.
            return ""
        if isinstance(answer, str):
            return answer
        return "" if answer.log_id == self._log_id else "it decides in another log"

    async def _end_if_younger(self) -> None:
        for other, why in await self._strangers():
            mine = [each for each in self._state.endpoints if each.address == self._address]
            if any(_age(each) > _age(other) for each in mine):
                _log.critical(
                    "another coordinator runs already: ending", address=other.address, why=why
                )
                sys.stderr.flush()
                os._exit(EXIT_CANNOT_START)

    def _registered(self) -> dict[str, str] | None:
        """See Succession.look."""
        if not self._state.resolved or self._state.error is not None:
            return None
        return {each.address: each.started_at for each in self._state.endpoints}


def _name(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.address, endpoint.started_at


def _age(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.started_at, endpoint.address
