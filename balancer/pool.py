"""From what the resolver knows to a picker: subchannels are opened, kept and retired.

The resolver reports whole states; the pool compares them by address. Whatever happens to
the list, a call in flight is not disturbed: an endpoint that is gone gets no new calls,
finishes what it has within `drain_grace_s`, and is closed then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from grpc import ChannelConnectivity

from balancer.config import ChannelConfig
from balancer.connection import Connection, Connector, is_ready
from balancer.eligibility import Mode, Reason, decide, explain
from balancer.guard import Guard
from balancer.leaving import Leaving
from balancer.policy import Picker, Policy
from balancer.subsetting import first_within, subset
from balancer.zones import split, zone_picker
from discovery.endpoint import Endpoint
from discovery.resolver import ResolverState

_log = logging.getLogger(__name__)

_FAILED: Final = ChannelConnectivity.TRANSIENT_FAILURE


class Pool:
    """The subchannels of one target and the picker over those that are READY.

    `picker` is None while none is. `failure` then says why a call that will not wait
    fails now, or is None while there is hope. `on_refresh` is called on the loop after each
    change.
    """

    def __init__(
        self,
        target: str,
        policy: Policy,
        config: ChannelConfig,
        connect: Connector,
        rng: random.Random,
        on_refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self.picker: Picker | None = None
        self.state = ChannelConnectivity.CONNECTING
        self.failure: str | None = None
        self.target = target
        self._policy = policy
        self._config = config
        self._connect = connect
        self._on_refresh = on_refresh
        self._may_connect = asyncio.Event()
        if not config.lazy:
            self._may_connect.set()
        self._resolution = ResolverState()
        self._subchannels: dict[str, Connection] = {}
        self._wanted: tuple[Endpoint, ...] = ()
        self._withdrawn: set[str] = set()
        self._is_over_limit = False
        self._leaving = Leaving(config, self._notify)
        self._built_from: tuple[object, ...] = ()
        self._reasons: dict[str, Reason | None] = {}
        self._picked: frozenset[str] = frozenset()
        self._rng = rng
        self._changed = asyncio.Event()
        self._stale = False
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._guard = Guard(
            config.breaker,
            config.outlier,
            rng=rng,
            clock=self._loop.time,
            refresh=self._refresh_from_anywhere,
            on_ejected=self._ejected,
        )
        if config.outlier is not None and config.outlier.is_on:
            self._sweep_later(config.outlier.interval_s)

    @property
    def closed(self) -> bool:
        """Whether `close` has begun."""
        return self.state is ChannelConnectivity.SHUTDOWN

    def update(self, resolution: ResolverState) -> None:
        """Takes over what the resolver knows. A Listener."""
        if self.closed:
            return
        self._resolution = resolution
        known = {**self._subchannels, **self._leaving.lingering}
        wanted = self._within_limit(self._subset(resolution.endpoints))
        withdrawn = [each for each in resolution.withdrawn if is_ready(known.get(each.address))]
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
            self._leaving.let_go(subchannel)
        self._guard.keep_only(self._subchannels)
        self.refresh()

    def refresh(self) -> None:
        """Makes `picker`, `state` and `failure` those of this moment."""
        self._stale = False
        if self.closed:
            return
        self._drop_withdrawn()
        subchannels = list(self._subchannels.values())
        facts = [self._guard.facts(each) for each in subchannels]
        decision = decide(facts, self._config.eligibility)
        self._note(decision.reasons)
        chosen = [subchannels[index] for index in decision.chosen]
        self._picked = frozenset([each.endpoint.address for each in chosen])
        self._build(chosen, decision.mode)
        self.state = self._state(decision.state)
        self.failure = self._explain(decision.reasons) if self.state is _FAILED else None
        self._refresh_when_a_breaker_admits()
        self._notify()

    def reasons(self) -> Mapping[str, Reason | None]:
        """Why each endpoint is not picked, by address; None for one that is."""
        return self._reasons

    def wake(self) -> None:
        """Connects, if it is lazy and nobody has asked before. From any thread."""
        if not self._may_connect.is_set():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._may_connect.set)

    def is_leaving(self, connection: Connection) -> bool:
        """Whether calls on it should end: its endpoint drains or has left."""
        return connection.endpoint.draining or connection in self._leaving

    def connections(self) -> tuple[Connection, ...]:
        """Those to the endpoints in use, by address."""
        return tuple(self._subchannels.values())

    @property
    def resolver_error(self) -> str:
        """What the resolver complains of; "" if nothing."""
        return self._resolution.error or ""

    def why_not_picked(self, connection: Connection) -> str:
        """Why no call goes there, for people; "" if calls do."""
        address = connection.endpoint.address
        if address in self._picked:
            return ""
        reason = self._reasons.get(address)
        health = connection.health
        if reason is Reason.NOT_SERVING and health is not None:
            return health.reason
        return reason.value if reason else "not judged yet"

    def ejected_for_s(self, address: str) -> float | None:
        """Seconds until an outlier may be let in again; None if it is not out."""
        return self._guard.ejected_for_s(address)

    async def changed(self) -> None:
        """Returns when anything above may have changed."""
        await self._changed.wait()

    async def close(self, grace_s: float) -> None:
        """Takes no new calls, lets those in flight finish for `grace_s`, and closes."""
        self.state = ChannelConnectivity.SHUTDOWN
        self.picker = None
        for timer in self._timers.values():
            timer.cancel()
        self._notify()
        connections, self._subchannels, self._withdrawn = self._subchannels, {}, set()
        await self._leaving.close(connections.values(), grace_s)

    def _drop_withdrawn(self) -> None:
        """Lets go of endpoints that the registry no longer has once their connection is lost."""
        for address in [a for a in self._withdrawn if not is_ready(self._subchannels[a])]:
            self._withdrawn.remove(address)
            self._wanted = tuple(each for each in self._wanted if each.address != address)
            self._leaving.retire(self._subchannels.pop(address))
        self._leaving.drop_lost()

    def _within_limit(self, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        limit = self._config.max_subchannels
        if len(endpoints) > limit and not self._is_over_limit:
            _log.warning("%s: using %d of %d endpoints", self.target, limit, len(endpoints))
        self._is_over_limit = len(endpoints) > limit
        if not self._is_over_limit:
            return endpoints
        works = {address for address, each in self._subchannels.items() if is_ready(each)}
        return first_within(endpoints, limit, works)

    def _keep_or_connect(self, subchannel: Connection | None, endpoint: Endpoint) -> Connection:
        if subchannel is None:
            return self._connect(endpoint, self._refresh_soon, self._may_connect)
        self._leaving.take_back(endpoint.address)
        subchannel.endpoint = endpoint
        return subchannel

    def _ejected(self, address: str) -> None:
        connection = self._subchannels.get(address)
        if connection is not None:
            connection.metrics.ejected()

    def _refresh_soon(self) -> None:
        # Many subchannels may change in one turn of the loop; one rebuild is enough,
        # since a pick looks for itself whether its subchannel is still READY.
        if not self._stale:
            self._stale = True
            self._loop.call_soon(self.refresh)

    def _refresh_from_anywhere(self) -> None:
        # Calls of threads end in those threads, some after the loop has.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._refresh_soon)

    def _refresh_when_a_breaker_admits(self) -> None:
        wait_s = self._guard.next_probe_s()
        if wait_s is not None:
            self._later("breaker", wait_s, self._refresh_soon)

    def _sweep_later(self, interval_s: float) -> None:
        def sweep() -> None:
            if self._guard.sweep(self._subchannels.keys()):
                self._refresh_soon()
            self._sweep_later(interval_s)

        self._later("sweep", interval_s, sweep)

    def _later(self, name: str, wait_s: float, what: Callable[[], None]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._loop.call_later(wait_s, what)

    def _note(self, reasons: Sequence[Reason | None]) -> None:
        """Remembers, and says to who debugs, why an endpoint is not picked."""
        before = self._reasons
        self._reasons = dict(zip(self._subchannels, reasons, strict=True))
        if not _log.isEnabledFor(logging.DEBUG):
            return
        for address, reason in self._reasons.items():
            if reason is not before.get(address):
                said = "may be picked" if reason is None else f"is not picked: {reason.value}"
                _log.debug("%s: %s %s", self.target, address, said)

    def _build(self, ready: list[Connection], mode: Mode) -> None:
        # A picker in use is kept as long as it is right: a new one starts its turns anew.
        built_from = (mode, *((each, each.endpoint) for each in ready))
        if built_from == self._built_from:
            return
        self._built_from = built_from
        self.picker = self._picker(tuple(ready), mode) if ready else None

    def _picker(self, ready: tuple[Connection, ...], mode: Mode) -> Picker:
        zones = self._config.zones
        if zones is None:
            inner = self._policy.build(ready)
        else:
            known = [each.endpoint for each in self._subchannels.values()]
            inner = zone_picker(split(ready, known, zones), self._policy.build, self._rng)
        return self._guard.picker(inner, ready, overrules=mode is not Mode.NORMAL)

    def _state(self, of_subchannels: ChannelConnectivity) -> ChannelConnectivity:
        waiting_for_resolver = not self._resolution.resolved and not self._resolution.error
        return ChannelConnectivity.CONNECTING if waiting_for_resolver else of_subchannels

    def _explain(self, reasons: Iterable[Reason | None]) -> str:
        error = self._resolution.error
        resolver = f" (resolver: {error})" if error else ""
        if not self._resolution.resolved:
            return f"{self.target}: not resolved{resolver}"
        if not self._subchannels:
            return f"{self.target}: no endpoints{resolver}"
        reasons = list(reasons)
        if any(reason is not Reason.NOT_READY for reason in reasons):
            return f"{self.target}: {explain(reasons)}{resolver}"
        last = next(reversed(self._subchannels.values()))
        return (
            f"{self.target}: none of {len(self._subchannels)} endpoints can be reached, "
            f"{last.endpoint.address}: {last.last_error}{resolver}"
        )

    def _subset(self, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        config = self._config.subset
        return endpoints if config is None else subset(endpoints, config.size, config.client_id)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_refresh()
