"""From what the resolver knows to a picker: subchannels are opened, kept and retired.

The resolver reports whole states; the pool compares them by address. Whatever happens to
the list, a call in flight is not disturbed: an endpoint that is gone gets no new calls,
finishes what it has within `drain_grace_s`, and is closed then.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from grpc import ChannelConnectivity

from balancer.config import ChannelConfig
from balancer.policy import Picker, Policy
from discovery.endpoint import Endpoint
from discovery.resolver import ResolverState


class Connection(Protocol):
    """A subchannel as the pool handles it, whoever carries its calls."""

    endpoint: Endpoint
    state: ChannelConnectivity
    last_error: str

    @property
    def in_flight(self) -> int:
        """Calls of this channel that have started there and not ended, at this moment."""

    async def drain(self, timeout_s: float) -> None:
        """Waits until no call is in flight, but not longer than `timeout_s`."""

    async def close(self) -> None:
        """Cancels what is in flight and closes the connection. May be repeated."""


Connector = Callable[[Endpoint, Callable[[], None]], Connection]

_log = logging.getLogger(__name__)

_PRECEDENCE = (
    ChannelConnectivity.READY,
    ChannelConnectivity.CONNECTING,
    ChannelConnectivity.IDLE,
)


def aggregate(states: Iterable[ChannelConnectivity]) -> ChannelConnectivity:
    """The state of a channel over subchannels in `states`.

    As gRPC's round_robin defines it (grpc/doc/load-balancing.md): READY if any is, else
    CONNECTING if any is, else IDLE, else TRANSIENT_FAILURE.
    """
    present = set(states)
    for state in _PRECEDENCE:
        if state in present:
            return state
    return ChannelConnectivity.TRANSIENT_FAILURE


def eligible(subchannels: Iterable[Connection]) -> list[Connection]:
    """Those that new calls may go to, connected or not: all that are not draining.

    When none of these can be had, the draining ones stand in: they still serve, and a
    call that would fail otherwise is worth more than a tidy shutdown.
    """
    subchannels = list(subchannels)
    staying = [each for each in subchannels if not each.endpoint.draining]
    state = aggregate(each.state for each in staying)
    return subchannels if state is ChannelConnectivity.TRANSIENT_FAILURE else staying


class Pool:
    """The subchannels of one target and the picker over those that are READY.

    `picker` is None while none is. `failure` then says why a call that will not wait
    fails now, or is None while there is hope.
    """

    def __init__(
        self, target: str, policy: Policy, config: ChannelConfig, connect: Connector
    ) -> None:
        self.picker: Picker | None = None
        self.state = ChannelConnectivity.CONNECTING
        self.failure: str | None = None
        self._target = target
        self._policy = policy
        self._config = config
        self._connect = connect
        self._resolution = ResolverState()
        self._subchannels: dict[str, Connection] = {}
        self._wanted: tuple[Endpoint, ...] = ()
        self._withdrawn: set[str] = set()
        self._lingering: dict[str, Connection] = {}
        self._is_over_limit = False
        self._retiring: dict[Connection, asyncio.Task[None]] = {}
        self._built_from: tuple[tuple[Connection, Endpoint], ...] = ()
        self._changed = asyncio.Event()
        self._stale = False
        self._loop = asyncio.get_running_loop()

    @property
    def closed(self) -> bool:
        """Whether `close` has begun."""
        return self.state is ChannelConnectivity.SHUTDOWN

    def update(self, resolution: ResolverState) -> None:
        """Takes over what the resolver knows. A Listener."""
        if self.closed:
            return
        self._resolution = resolution
        known = self._subchannels | self._lingering
        wanted = self._within_limit(resolution.endpoints)
        withdrawn = [each for each in resolution.withdrawn if _is_ready(known.get(each.address))]
        if withdrawn:
            wanted = tuple(sorted((*wanted, *withdrawn), key=lambda each: each.address))
        self._withdrawn = {each.address for each in withdrawn}
        if wanted == self._wanted:
            # Only what is said about a failure can differ.
            if self.state is not ChannelConnectivity.READY:
                self.refresh()
            return
        self._wanted = wanted
        self._subchannels = {
            endpoint.address: self._keep_or_connect(known.pop(endpoint.address, None), endpoint)
            for endpoint in wanted
        }
        for subchannel in known.values():
            self._let_go(subchannel)
        self.refresh()

    def refresh(self) -> None:
        """Makes `picker`, `state` and `failure` those of this moment."""
        self._stale = False
        if self.closed:
            return
        self._drop_withdrawn()
        candidates = eligible(self._subchannels.values())
        ready = [each for each in candidates if each.state is ChannelConnectivity.READY]
        self._build(ready)
        self.state = self._aggregate(candidates)
        self.failure = self._explain() if self.state is _FAILED else None
        self._notify()

    async def changed(self) -> None:
        """Returns when anything above may have changed."""
        await self._changed.wait()

    async def close(self, grace_s: float) -> None:
        """Takes no new calls, lets those in flight finish for `grace_s`, and closes."""
        self.state = ChannelConnectivity.SHUTDOWN
        self.picker = None
        self._notify()
        for subchannel in (self._subchannels | self._lingering).values():
            self._retire(subchannel, grace_s)
        self._subchannels, self._withdrawn, self._lingering = {}, set(), {}
        retiring = dict(self._retiring)
        if retiring and grace_s:
            await asyncio.wait(retiring.values(), timeout=grace_s)
        for task in retiring.values():
            task.cancel()
        await asyncio.gather(*(subchannel.close() for subchannel in retiring))
        await asyncio.gather(*retiring.values(), return_exceptions=True)

    def _let_go(self, subchannel: Connection) -> None:
        """Of an endpoint that left: at once, or after a while when that may be a mistake."""
        address = subchannel.endpoint.address
        if address in self._lingering:
            return
        if subchannel.endpoint.draining or not _is_ready(subchannel) or not self._config.linger_s:
            self._retire(subchannel, self._config.drain_grace_s)
            return
        self._lingering[address] = subchannel
        self._loop.call_later(self._config.linger_s, self._linger_no_more, subchannel)

    def _linger_no_more(self, subchannel: Connection) -> None:
        if self._lingering.get(subchannel.endpoint.address) is subchannel:
            del self._lingering[subchannel.endpoint.address]
            self._retire(subchannel, self._config.drain_grace_s)

    def _drop_withdrawn(self) -> None:
        """Lets go of endpoints that the registry no longer has once their connection is lost."""
        for address in [a for a in self._withdrawn if not _is_ready(self._subchannels[a])]:
            self._withdrawn.remove(address)
            self._wanted = tuple(each for each in self._wanted if each.address != address)
            self._retire(self._subchannels.pop(address), self._config.drain_grace_s)
        for subchannel in [each for each in self._lingering.values() if not _is_ready(each)]:
            self._linger_no_more(subchannel)

    def _within_limit(self, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        limit = self._config.max_subchannels
        if len(endpoints) > limit and not self._is_over_limit:
            _log.warning("%s: using %d of %d endpoints", self._target, limit, len(endpoints))
        self._is_over_limit = len(endpoints) > limit
        return self._first(endpoints, limit) if self._is_over_limit else endpoints

    def _first(self, endpoints: tuple[Endpoint, ...], limit: int) -> tuple[Endpoint, ...]:
        """Those that work first: a flood of others must not push them out."""
        works = {address for address, each in self._subchannels.items() if _is_ready(each)}
        first = endpoints[:limit]
        if sum(each.address in works for each in first) == len(works):
            return first
        working = [each for each in endpoints if each.address in works]
        others = (each for each in endpoints if each.address not in works)
        chosen = [*working, *itertools.islice(others, limit - len(working))]
        return tuple(sorted(chosen, key=lambda each: each.address))

    def _keep_or_connect(self, subchannel: Connection | None, endpoint: Endpoint) -> Connection:
        if subchannel is None:
            return self._connect(endpoint, self._refresh_soon)
        self._lingering.pop(endpoint.address, None)
        subchannel.endpoint = endpoint
        return subchannel

    def _refresh_soon(self) -> None:
        # Many subchannels may change in one turn of the loop; one rebuild is enough,
        # since a pick looks for itself whether its subchannel is still READY.
        if not self._stale:
            self._stale = True
            self._loop.call_soon(self.refresh)

    def _build(self, ready: list[Connection]) -> None:
        # A picker in use is kept as long as it is right: a new one starts its turns anew.
        built_from = tuple((each, each.endpoint) for each in ready)
        if built_from != self._built_from:
            self.picker = self._policy.build(tuple(ready)) if ready else None
            self._built_from = built_from

    def _aggregate(self, candidates: list[Connection]) -> ChannelConnectivity:
        waiting_for_resolver = not self._resolution.resolved and not self._resolution.error
        if waiting_for_resolver:
            return ChannelConnectivity.CONNECTING
        return aggregate(each.state for each in candidates)

    def _explain(self) -> str:
        error = self._resolution.error
        resolver = f" (resolver: {error})" if error else ""
        if not self._resolution.resolved:
            return f"{self._target}: not resolved{resolver}"
        if not self._subchannels:
            return f"{self._target}: no endpoints{resolver}"
        last = next(reversed(self._subchannels.values()))
        return (
            f"{self._target}: none of {len(self._subchannels)} endpoints can be reached, "
            f"{last.endpoint.address}: {last.last_error}{resolver}"
        )

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _retire(self, subchannel: Connection, grace_s: float) -> None:
        task = self._loop.create_task(_drain_and_close(subchannel, grace_s))
        self._retiring[subchannel] = task
        task.add_done_callback(lambda _: self._retiring.pop(subchannel, None))


_FAILED = ChannelConnectivity.TRANSIENT_FAILURE


def _is_ready(subchannel: Connection | None) -> bool:
    return subchannel is not None and subchannel.state is ChannelConnectivity.READY


async def _drain_and_close(subchannel: Connection, grace_s: float) -> None:
    await subchannel.drain(grace_s)
    await subchannel.close()
