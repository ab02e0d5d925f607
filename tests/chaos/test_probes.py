"""I7: which calls are judged."""

from __future__ import annotations

from tests.chaos.faults import ETCD, Fault, Kind, Victim
from tests.chaos.findings import Findings
from tests.chaos.probes import NOTICED_S, SETTLE_S, Probe, Span, judge

CAST = {"ledger": 2, "coordinator": 1, ETCD: 1}
FAILED = Probe("ledger", 100.0, 100.1, "UNAVAILABLE")


def _span(kind: Kind, *victims: Victim, began_s: float, ended_s: float | None = None) -> Span:
    return Span(Fault(kind, victims, began_s), began_s, ended_s)


def _judged(*spans: Span, probe: Probe = FAILED) -> tuple[int, int]:
    found = Findings()
    judge(found, [probe], spans, CAST)
    return found.looked["I7"], found.broken["I7"]


def test_a_call_in_peace_has_to_succeed() -> None:
    """It is looked at, and one that fails is a violation."""
    assert (1, 1) == _judged()
    assert (1, 0) == _judged(probe=Probe("ledger", 100.0, 100.1))


def test_a_call_while_etcd_is_away_has_to_succeed() -> None:
    """Whatever is done to etcd, and to others whom nobody asked."""
    away = _span(Kind.STOP, Victim(ETCD, 0), began_s=90)
    other = _span(Kind.KILL, Victim("coordinator", 0), began_s=99.9)
    assert (1, 1) == _judged(away, other)


def test_a_call_to_a_service_that_is_broken_is_not_judged() -> None:
    """Nor one soon after it was healed."""
    assert (0, 0) == _judged(_span(Kind.CUT, Victim("ledger", 0), began_s=98))
    healed_s = 100.0 - SETTLE_S + 1
    assert (0, 0) == _judged(_span(Kind.CUT, Victim("ledger", 0), began_s=90, ended_s=healed_s))
    healed_s = 100.0 - SETTLE_S - 1
    assert (1, 1) == _judged(_span(Kind.CUT, Victim("ledger", 0), began_s=90, ended_s=healed_s))


def test_one_dead_replica_leaves_another() -> None:
    """From a moment after the kill; two dead ones leave none."""
    one = _span(Kind.KILL, Victim("ledger", 0), began_s=100.0 - NOTICED_S - 1)
    two = _span(Kind.KILL, Victim("ledger", 1), began_s=100.0 - NOTICED_S - 1)
    assert (1, 1) == _judged(one)
    assert (0, 0) == _judged(one, two)
    assert (0, 0) == _judged(_span(Kind.KILL, Victim("ledger", 0), began_s=99.9))
