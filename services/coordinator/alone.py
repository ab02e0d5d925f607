"""One coordinator for now: a second one, over whatever log, is refused.

Over the same log the kernel refuses it (`take_ownership`). Over another log it would have
its own idempotency keys, and the same request would have two effects. So a coordinator
looks into the registry before it serves, waits for a predecessor's lease to run out, and
does not start beside one that stays. While it serves it goes on looking: of two that
started while the registry was away the younger one ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

import structlog

from discovery import Endpoint, Resolver, ResolverState
from services.runtime import EXIT_CANNOT_START, LEASE_TTL_S, CannotStart

# Without an answer of the registry in this time the coordinator starts all the same: the
# registry is off the data path.
REGISTRY_WAIT_S = 2.0
PREDECESSOR_WAIT_S = 2.0 * LEASE_TTL_S

_log = structlog.get_logger(__name__)


class Alone:
    """Watches for other coordinators of the same name."""

    def __init__(self, resolver: Resolver, service: str, address: str) -> None:
        self._address = address
        self._states: asyncio.Queue[ResolverState] = asyncio.Queue()
        self._on_state: Callable[[ResolverState], None] = self._states.put_nowait
        resolver.subscribe(service, lambda state: self._on_state(state))

    async def wait(self) -> None:
        """Returns when no other coordinator is registered. Raises CannotStart when one stays."""
        others: tuple[Endpoint, ...] = ()
        deadline_s = REGISTRY_WAIT_S
        try:
            while True:
                async with asyncio.timeout(deadline_s):
                    state = await self._states.get()
                others = self._others(state)
                if state.resolved and not others:
                    break
                deadline_s = PREDECESSOR_WAIT_S if others else REGISTRY_WAIT_S
        except TimeoutError:
            if others:
                raise CannotStart(
                    f"another coordinator is registered at {others[0].address}: "
                    "only one may run for now"
                ) from None
            _log.warning("the registry does not answer: not known to be the only coordinator")
        self._on_state = self._watch

    def _others(self, state: ResolverState) -> tuple[Endpoint, ...]:
        return tuple(each for each in state.endpoints if each.address != self._address)

    def _watch(self, state: ResolverState) -> None:
        mine = next((each for each in state.endpoints if each.address == self._address), None)
        for other in self._others(state):
            if mine is not None and _age(mine) > _age(other):
                _log.critical("another coordinator runs already: ending", address=other.address)
                sys.stderr.flush()
                os._exit(EXIT_CANNOT_START)


def _age(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.started_at, endpoint.address
