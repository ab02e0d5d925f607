"""What calls tell about endpoints, and how it keeps calls away from them.

One guard serves one channel, of either kind: it stands between the policy and the call. Each
pick asks the endpoint's breaker and its limit of calls in flight, and each call that ends
is told to the breaker and to the outlier detector. Who is left out for longer is not
decided here but by `balancer.eligibility`, from the facts that this module collects.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import grpc

from balancer.breaker import Breaker, BreakerConfig, BreakerState, Ticket
from balancer.eligibility import Facts
from balancer.outlier import OutlierConfig, OutlierDetector, verdict
from balancer.policy import CompletionHook, Picker, PickInfo, PickResult, Subchannel
from discovery.endpoint import Endpoint

# A policy may name one again that its breaker has just refused.
PICKS_PER_CALL_MAX: Final = 4

# Looked up by calls; a member of an enum is found in Python.
_OK: Final = grpc.StatusCode.OK
_CLOSED: Final = BreakerState.CLOSED
_OPEN: Final = BreakerState.OPEN
_READY: Final = grpc.ChannelConnectivity.READY
_CLEAR: Final = Facts(_READY)

_log = logging.getLogger(__name__)


class NobodyAdmitted(Exception):
    """Every endpoint is at its limit or refused by its breaker: the call has to wait."""


class Guarded(Protocol):
    """A connection, as far as it matters here."""

    endpoint: Endpoint
    state: grpc.ChannelConnectivity

    @property
    def in_flight(self) -> int:
        """Calls that have started there and not ended."""

    @property
    def serving(self) -> bool:
        """Whether its server says that it serves, or is not asked."""


class Guard:
    """Breakers and outlier detection of one channel.

    `refresh` is called from within a call, in its thread, when who may be picked has
    changed; `on_ejected` likewise, with the address of who was taken out.
    """

    def __init__(
        self,
        breaker: BreakerConfig | None,
        outlier: OutlierConfig | None,
        *,
        rng: random.Random,
        clock: Callable[[], float],
        refresh: Callable[[], None],
        on_ejected: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config = breaker
        self._on_ejected = on_ejected
        is_on = outlier is not None and outlier.is_on
        self._detector = OutlierDetector(outlier, rng) if outlier and is_on else None
        self._watches = breaker is not None or self._detector is not None
        self._clock = clock
        self._refresh = refresh
        self._breakers: dict[str, Breaker] = {}
        self._ejected: frozenset[str] = frozenset()

    def facts(self, connection: Guarded) -> Facts:
        """What speaks for and against a connection now."""
        endpoint = connection.endpoint
        if not self._watches:
            # Most are like this one, and there may be a thousand of them.
            if connection.state is _READY and connection.serving and not endpoint.draining:
                return _CLEAR
            return Facts(connection.state, endpoint.draining, connection.serving)
        breaker = self._breakers.get(endpoint.address)
        return Facts(
            state=connection.state,
            draining=endpoint.draining,
            serving=connection.serving,
            ejected=endpoint.address in self._ejected,
            broken=breaker is not None and not breaker.admits(self._clock()),
            full=self._config is not None and connection.in_flight >= self._config.max_in_flight,
        )

    def picker(
        self, inner: Picker, subchannels: Sequence[Subchannel], *, overrules: bool
    ) -> Picker:
        """`inner`, guarded; with `overrules` a breaker that refuses does not stop a call."""
        if not self._watches:
            return inner
        gates = {each: self._gate(each) for each in subchannels}
        return _GuardedPicker(inner, gates, overrules=overrules)

    def sweep(self, addresses: Collection[str]) -> bool:
        """Judges `addresses`; True if who may be picked has changed."""
        if self._detector is None:
            return False
        sweep = self._detector.sweep(addresses, self._clock())
        for address, reason in sweep.newly_ejected.items():
            _log.warning("%s is ejected for a while: %s", address, reason)
            self._on_ejected(address)
        changed = sweep.ejected != self._ejected
        self._ejected = sweep.ejected
        return changed

    def ejected_for_s(self, address: str) -> float | None:
        """Seconds until an outlier may be let in again; None if it is not out."""
        if self._detector is None or address not in self._ejected:
            return None
        return self._detector.ejected_for_s(address, self._clock())

    def keep_only(self, addresses: Iterable[str]) -> None:
        """Forgets the breakers of endpoints that left."""
        kept = {each: self._breakers[each] for each in addresses if each in self._breakers}
        self._breakers = kept

    def next_probe_s(self) -> float | None:
        """Seconds until a breaker that is open admits a call; None if none is."""
        now = self._clock()
        waits = [each.retry_at_s - now for each in self._breakers.values() if not each.admits(now)]
        return max(0.0, min(waits)) if waits else None

    def _gate(self, subchannel: Subchannel) -> _Gate:
        config, breaker = self._config, None
        if config is not None:
            address = subchannel.endpoint.address
            breaker = self._breakers.setdefault(address, Breaker(config))
        return _Gate(
            subchannel,
            breaker,
            self._detector,
            limit=config.max_in_flight if config else sys.maxsize,
            clock=self._clock,
            refresh=self._refresh,
            on_ejected=self._on_ejected,
        )


class _Gate:
    """What stands before one subchannel, and hears what became of the calls let through."""

    __slots__ = (
        "_address",
        "_breaker",
        "_clock",
        "_detector",
        "_limit",
        "_on_ejected",
        "_refresh",
        "_result",
        "_subchannel",
        "_ticket",
    )

    def __init__(
        self,
        subchannel: Subchannel,
        breaker: Breaker | None,
        detector: OutlierDetector | None,
        *,
        limit: int,
        clock: Callable[[], float],
        refresh: Callable[[], None],
        on_ejected: Callable[[str], None],
    ) -> None:
        self._on_ejected = on_ejected
        self._subchannel = subchannel
        self._address = subchannel.endpoint.address
        self._breaker = breaker
        self._detector = detector
        self._limit = limit
        self._clock = clock
        self._refresh = refresh
        # The usual answer, made once: to a policy that asks for no news, with the ticket
        # that is valid as long as nothing happens. One that is not closed would take the
        # question for a call.
        is_closed = breaker is not None and breaker.state is _CLOSED
        self._ticket = breaker.try_start(0.0) if breaker and is_closed else None
        self._result = self._admitted(self._ticket, None)

    def admit(self, on_done: CompletionHook | None, *, overrules: bool) -> PickResult | None:
        """The result for a call that may pass; None if it must not."""
        if self._subchannel.in_flight >= self._limit:
            return None
        breaker, ticket = self._breaker, None
        if breaker is not None:
            # Of no meaning to one that is closed, and the clock costs as much as the answer.
            now = 0.0 if breaker.state is _CLOSED else self._clock()
            ticket = breaker.try_start(now)
            if ticket is None and not overrules:
                return None
        if on_done is None and ticket == self._ticket:
            return self._result
        return self._admitted(ticket, on_done)

    def _admitted(self, ticket: Ticket | None, on_done: CompletionHook | None) -> PickResult:
        return PickResult(self._subchannel, partial(self._ended, ticket, on_done))

    def _ended(
        self, ticket: Ticket | None, inner: CompletionHook | None, code: grpc.StatusCode | None
    ) -> None:
        """A call that was picked has ended, or was never started (None)."""
        if inner is not None:
            inner(code)
        detector, breaker = self._detector, self._breaker
        if detector is not None and (said := verdict(code)) is not None:
            detector.record(self._address, said)
        changed = self._subchannel.in_flight == self._limit - 1
        # One good call after another is no news to a breaker.
        if breaker is not None and ticket is not None and (breaker.failures or code is not _OK):
            turned = breaker.finish(ticket, code, self._clock())
            if turned and breaker.state is _OPEN:
                self._on_ejected(self._address)
            changed |= turned
        if changed:
            self._refresh()


class _GuardedPicker:
    __slots__ = ("_gates", "_inner", "_overrules")

    def __init__(
        self, inner: Picker, gates: Mapping[Subchannel, _Gate], *, overrules: bool
    ) -> None:
        self._inner = inner
        self._gates = gates
        self._overrules = overrules

    def pick(self, info: PickInfo) -> PickResult:
        """As the policy picks, but for those that must not have the call.

        Raises NobodyAdmitted.
        """
        for _ in range(PICKS_PER_CALL_MAX):
            subchannel, on_done = self._inner.pick(info)
            admitted = self._gates[subchannel].admit(on_done, overrules=self._overrules)
            if admitted is not None:
                return admitted
            if on_done is not None:
                on_done(None)
        # A policy may name the same few again and again.
        for gate in self._gates.values():
            admitted = gate.admit(None, overrules=self._overrules)
            if admitted is not None:
                return admitted
        raise NobodyAdmitted
