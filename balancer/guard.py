"""What calls tell about endpoints, and how it keeps calls away from them.

One guard serves one channel, of either kind: it stands between the policy and the call. Each
pick asks the endpoint's breaker and its limit of calls in flight, and each call that ends
is told to the breaker and to the outlier detector. Who is left out for longer is not
decided here but by `balancer.eligibility`, from the facts that this module collects.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

import grpc

from balancer.breaker import Breaker, BreakerConfig, Ticket
from balancer.eligibility import Facts
from balancer.outlier import OutlierConfig, OutlierDetector, verdict
from balancer.policy import CompletionHook, Picker, PickInfo, PickResult, Subchannel
from discovery.endpoint import Endpoint

# A policy may name one again that its breaker has just refused.
PICKS_PER_CALL_MAX: Final = 4

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
    changed.
    """

    def __init__(
        self,
        breaker: BreakerConfig | None,
        outlier: OutlierConfig | None,
        *,
        rng: random.Random,
        clock: Callable[[], float],
        refresh: Callable[[], None],
    ) -> None:
        self._config = breaker
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
        breakers = {each: self._breaker(each.endpoint.address) for each in subchannels}
        limit = self._config.max_in_flight if self._config else None
        return _GuardedPicker(self, inner, breakers, limit, overrules=overrules)

    def sweep(self, addresses: Collection[str]) -> bool:
        """Judges `addresses`; True if who may be picked has changed."""
        if self._detector is None:
            return False
        sweep = self._detector.sweep(addresses, self._clock())
        for address, reason in sweep.newly_ejected.items():
            _log.warning("%s is ejected for a while: %s", address, reason)
        changed = sweep.ejected != self._ejected
        self._ejected = sweep.ejected
        return changed

    def keep_only(self, addresses: Iterable[str]) -> None:
        """Forgets the breakers of endpoints that left."""
        kept = {each: self._breakers[each] for each in addresses if each in self._breakers}
        self._breakers = kept

    def next_probe_s(self) -> float | None:
        """Seconds until a breaker that is open admits a call; None if none is."""
        now = self._clock()
        waits = [each.retry_at_s - now for each in self._breakers.values() if not each.admits(now)]
        return max(0.0, min(waits)) if waits else None

    def now(self) -> float:
        """The clock's reading."""
        return self._clock()

    def ended(
        self,
        subchannel: Subchannel,
        breaker: Breaker | None,
        ticket: Ticket | None,
        inner: CompletionHook | None,
        code: grpc.StatusCode | None,
    ) -> None:
        """A call that was picked has ended, or was never started (None)."""
        if inner is not None:
            inner(code)
        if self._detector is not None and (said := verdict(code)) is not None:
            self._detector.record(subchannel.endpoint.address, said)
        config = self._config
        changed = config is not None and subchannel.in_flight == config.max_in_flight - 1
        if breaker is not None and ticket is not None:
            changed |= breaker.finish(ticket, code, self._clock())
        if changed:
            self._refresh()

    def _breaker(self, address: str) -> Breaker | None:
        if self._config is None:
            return None
        return self._breakers.setdefault(address, Breaker(self._config))


class _GuardedPicker:
    def __init__(
        self,
        guard: Guard,
        inner: Picker,
        breakers: dict[Subchannel, Breaker | None],
        limit: int | None,
        *,
        overrules: bool,
    ) -> None:
        self._guard = guard
        self._inner = inner
        self._breakers = breakers
        self._limit = limit
        self._overrules = overrules

    def pick(self, info: PickInfo) -> PickResult:
        """As the policy picks, but for those that must not have the call.

        Raises NobodyAdmitted.
        """
        for _ in range(PICKS_PER_CALL_MAX):
            result = self._inner.pick(info)
            admitted = self._admit(*result)
            if admitted is not None:
                return admitted
            if result.on_done is not None:
                result.on_done(None)
        # A policy may name the same few again and again.
        for subchannel in self._breakers:
            admitted = self._admit(subchannel, None)
            if admitted is not None:
                return admitted
        raise NobodyAdmitted

    def _admit(self, subchannel: Subchannel, on_done: CompletionHook | None) -> PickResult | None:
        if self._limit is not None and subchannel.in_flight >= self._limit:
            return None
        breaker, ticket = self._breakers[subchannel], None
        if breaker is not None:
            ticket = breaker.try_start(self._guard.now())
            if ticket is None and not self._overrules:
                return None
        ended = partial(self._guard.ended, subchannel, breaker, ticket, on_done)
        return PickResult(subchannel, ended)
