"""Who may be picked, and why each other one may not.

Each endpoint has at most one reason that speaks against it, the hardest that applies; the
reasons stand in that order. What is done about too many of them:

- *Panic* (Envoy's healthy panic threshold): when fewer than `panic_threshold_percent` of
  the connected endpoints are healthy, those that are only under suspicion (ejected, or
  with an open breaker) are used like healthy ones. Suspicion is what this client infers;
  if it falls on most, the inference is more likely wrong, and if it is right, the few left
  would drown in the load of all.
- NOT_SERVING is not inferred: the server itself says it. Envoy's panic disregards it like
  any other sign, since its health checks also fail for reasons of the checker. Here such
  endpoints get nothing while anyone else is left, and are used only when nobody is: then,
  as in Envoy, calls that may succeed are better than calls that cannot.
- Draining endpoints stand in when nobody else can be had: they still serve, and a call that
  would fail otherwise is worth more than a tidy shutdown. Going away is no illness, so they
  do not count towards panic.
- A full endpoint is busy and not ill, and no mode ever overfills it.

An endpoint that still connects is a hope: stand-ins are not used while there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from grpc import ChannelConnectivity

from balancer.errors import InvalidConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class EligibilityConfig:
    """`panic_threshold_percent` of the connected endpoints must be healthy, 0 to 100.

    At 0 there is no panic: who is suspected or NOT_SERVING gets nothing, come what may.

    Raises InvalidConfigError.
    """

    panic_threshold_percent: float = 50.0

    def __post_init__(self) -> None:
        if not 0 <= self.panic_threshold_percent <= 100:
            raise InvalidConfigError(
                f"panic_threshold_percent is not from 0 to 100: {self.panic_threshold_percent}"
            )


class Facts(NamedTuple):
    """What is known of one subchannel at this moment.

    `serving` is False if its server says otherwise; `broken` if its breaker admits no call;
    `full` if it has `max_in_flight` calls.
    """

    state: ChannelConnectivity
    draining: bool = False
    serving: bool = True
    ejected: bool = False
    broken: bool = False
    full: bool = False


class Reason(Enum):
    """What speaks against an endpoint, the first that applies; values are for people."""

    NOT_READY = "not connected"
    FULL = "at its limit of calls in flight"
    DRAINING = "draining"
    NOT_SERVING = "not serving by its own word"
    BREAKER_OPEN = "circuit breaker open"
    EJECTED = "ejected as an outlier"


class Mode(Enum):
    """On what footing endpoints were chosen.

    In all but NORMAL someone is chosen in spite of a reason; a breaker that refuses must
    then not stop the call.
    """

    NORMAL = "healthy ones"
    PANIC = "suspected ones too, since too few are healthy"
    DRAINING = "draining ones, since nobody else can be had"
    NOT_SERVING = "even those that do not serve, since nobody else can be had"
    NOBODY = "nobody can be had"


class Eligibility(NamedTuple):
    """`chosen` are indexes into the facts, ascending; `reasons` has one entry for each fact.

    A reason may stand beside an endpoint that is chosen all the same, by `mode`. `state` is
    that of the channel: READY if a call can or soon will be placed, CONNECTING or IDLE if
    there is hope, else TRANSIENT_FAILURE.
    """

    chosen: tuple[int, ...]
    reasons: tuple[Reason | None, ...]
    mode: Mode
    state: ChannelConnectivity


_READY: Final = ChannelConnectivity.READY
_CLEAR: Final = Facts(_READY)
_REASONS: Final = (None, *Reason)
_FAILED: Final = ChannelConnectivity.TRANSIENT_FAILURE
_HOPEFUL: Final = (ChannelConnectivity.CONNECTING, ChannelConnectivity.IDLE)


def decide(facts: Sequence[Facts], config: EligibilityConfig) -> Eligibility:
    """Who of `facts` may get new calls now."""
    reasons = tuple([None if each == _CLEAR else _reason(each) for each in facts])
    # A Counter would hash a thousand members, which enums do in Python.
    count = {each: reasons.count(each) for each in _REASONS}
    # Where one is healthy nobody asks for hope, and it costs another look at all.
    hope = None if count[None] else _hope(each.state for each in facts if not each.draining)
    mode, allowed = _footing(count, config.panic_threshold_percent, hopeful=hope is not None)
    chosen = tuple([index for index, reason in enumerate(reasons) if reason in allowed])
    is_placeable = chosen or count[Reason.FULL]
    # One that drains and still connects is the last hope there may be.
    last = None if is_placeable or hope else _hope(each.state for each in facts)
    state = _READY if is_placeable else hope or last or _FAILED
    return Eligibility(chosen, reasons, mode, state)


def explain(reasons: Iterable[Reason | None]) -> str:
    """The reasons by number, the hardest first: "2 not connected, 1 draining"."""
    count = Counter(reasons)
    return ", ".join(f"{count[each]} {each.value}" for each in Reason if count[each])


def _reason(facts: Facts) -> Reason | None:
    if facts.state is not _READY:
        return Reason.NOT_READY
    if facts.full:
        return Reason.FULL
    if facts.draining:
        return Reason.DRAINING
    if not facts.serving:
        return Reason.NOT_SERVING
    if facts.broken:
        return Reason.BREAKER_OPEN
    return Reason.EJECTED if facts.ejected else None


def _footing(
    count: Mapping[Reason | None, int], panic_threshold_percent: float, *, hopeful: bool
) -> tuple[Mode, tuple[Reason | None, ...]]:
    """The mode, and which reasons it overlooks; None stands for nothing to overlook."""
    healthy = count[None] + count[Reason.FULL]
    connected = sum(count.values()) - count[Reason.NOT_READY] - count[Reason.DRAINING]
    suspected = count[Reason.BREAKER_OPEN] + count[Reason.EJECTED]
    if suspected and healthy * 100 < panic_threshold_percent * connected:
        return Mode.PANIC, (None, Reason.BREAKER_OPEN, Reason.EJECTED)
    if count[None]:
        return Mode.NORMAL, (None,)
    if hopeful or count[Reason.FULL]:
        return Mode.NOBODY, ()
    if count[Reason.DRAINING]:
        return Mode.DRAINING, (Reason.DRAINING,)
    if count[Reason.NOT_SERVING] and panic_threshold_percent:
        return Mode.NOT_SERVING, (Reason.NOT_SERVING,)
    return Mode.NOBODY, ()


def _hope(states: Iterable[ChannelConnectivity]) -> ChannelConnectivity | None:
    """The best of `states` that may yet become READY; None without any."""
    present = list(states)
    return next((state for state in _HOPEFUL if state in present), None)
