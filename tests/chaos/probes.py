"""I7: calls to endpoints that are up go on. Which calls are to be judged is decided here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.chaos.faults import ETCD, Cast, Fault, Kind
from tests.chaos.findings import Findings

# After a fault of a service itself its connections come back with their backoff.
SETTLE_S = 6.0
# From then on nobody can hold a killed replica for a living one.
NOTICED_S = 1.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One call that reads something, with one attempt."""

    service: str
    began_s: float
    ended_s: float
    error: str = ""

    def since(self, from_s: float) -> Probe:
        """With times counted from that moment."""
        return replace(self, began_s=self.began_s - from_s, ended_s=self.ended_s - from_s)


@dataclass(frozen=True, slots=True)
class Span:
    """A fault and when it was; `ended_s` is None for one that lasts."""

    fault: Fault
    began_s: float
    ended_s: float | None

    def touches(self, from_s: float, to_s: float) -> bool:
        """Whether it was there at some time in between."""
        return self.began_s <= to_s and (self.ended_s is None or self.ended_s >= from_s)


def judge(found: Findings, probes: Sequence[Probe], spans: Sequence[Span], cast: Cast) -> None:
    """Looks at every call whose service was up, be etcd or one of its replicas gone."""
    for probe in probes:
        near = [s for s in spans if s.touches(probe.began_s - SETTLE_S, probe.ended_s)]
        if _was_up(probe, near, cast):
            what = (
                f"{probe.service} was up, and a call at {probe.began_s:.1f} s failed:"
                f" {probe.error}; {_names(near)}"
            )
            found.check("I7", not probe.error, what)


def registry_away(probes: Sequence[Probe], spans: Sequence[Span]) -> int:
    """How many of the calls were made while etcd was broken."""
    away = [s for s in spans if any(v.role == ETCD for v in s.fault.victims)]
    return sum(any(s.touches(p.began_s, p.ended_s) for s in away) for p in probes)


def _was_up(probe: Probe, near: Sequence[Span], cast: Cast) -> bool:
    mine = [s for s in near if any(v.role == probe.service for v in s.fault.victims)]
    hit = {v for s in mine for v in s.fault.victims if v.role == probe.service}
    if not mine:
        return True
    # One replica that is killed leaves another; whatever else is done to it may take a call.
    return (
        len(hit) == 1
        and cast[probe.service] > 1
        and all(s.fault.kind is Kind.KILL and s.began_s + NOTICED_S < probe.began_s for s in mine)
    )


def _names(spans: Sequence[Span]) -> str:
    return "; ".join(str(span.fault) for span in spans) or "nothing was broken"
