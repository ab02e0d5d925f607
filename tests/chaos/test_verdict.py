"""What a run comes to: when it was no test, and how that is said."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.chaos.findings import INVARIANTS, KEPT_MAX, NOT_YET, Findings
from tests.chaos.verdict import (
    LATE_MAX,
    Run,
    as_json,
    complaints,
    figures,
    finish,
    last_line,
    longest_calm_s,
    table,
)


def _run(findings: Findings | None = None) -> Run:
    return Run(
        seed=1,
        lasted_s=60.0,
        payments=700,
        refused=20,
        attempts=800,
        faults=24,
        kinds=Counter({"kill -9": 24}),
        kills=Counter(order=12, etcd=12),
        missed=0,
        idle=0,
        clashes_refused=9,
        kills_asked=0,
        takeovers=0,
        takeovers_asked=0,
        unpaid_rounds=0,
        longest_calm_s=3.2,
        books_settled_s=4.0,
        answered_s=3.0,
        load=1.0,
        late=1.0,
        snapshots=80,
        unread=1,
        oldest_in_doubt_s=5.0,
        cast={"order": 2, "etcd": 1},
        left_out=["nothing"],
        findings=findings or _looked_at(*(name for name in INVARIANTS if name not in NOT_YET)),
    )


def _looked_at(*names: str) -> Findings:
    found = Findings()
    for name in names:
        found.check(name, True, "")
    return found


def test_a_good_run_has_no_complaints() -> None:
    """And its last line is what programs look for."""
    assert [] == complaints(_run())
    assert [] == complaints(replace(_run(), kills_asked=24, longest_calm_s=20.0))
    assert "faults=24 payments=700 violations=0" == last_line(_run())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"payments": 0}, "no payment"),
        ({"kills": Counter(order=24)}, "never killed: etcd"),
        ({"clashes_refused": 0}, "no key was ever refused"),
        ({"kills_asked": 25}, "24 kills, and 25 were asked for"),
        ({"kills_asked": 24, "kills": Counter(order=23, etcd=1)}, "less than 2 times: etcd"),
        ({"kills_asked": 24, "unpaid_rounds": 3}, "paid after 3 of the rounds"),
        ({"snapshots": 11}, "11 snapshots of the books in 60 s"),
        ({"findings": _looked_at("I1", "I2", "I3", "I5", "I6", "I7")}, "never looked at: I4, I9"),
        ({"longest_calm_s": 5.1}, "5.1 s without a new fault"),
        ({"kills_asked": 24, "lasted_s": 122.4}, "5.1 s without a new fault"),
    ],
)
def test_a_run_that_was_no_test_says_why(changes: dict[str, object], says: str) -> None:
    """Payments, every role and invariant, faults and looks every five seconds, a whole campaign."""
    (complaint,) = complaints(replace(_run(), **changes))  # type: ignore[arg-type]
    assert says in complaint


@pytest.mark.parametrize(
    ("settled_s", "answered_s", "violations"),
    [(30.0, 29.0, 0), (30.1, 1.0, 1), (1.0, 30.1, 1), (None, 1.0, 1), (1.0, None, 1)],
)
def test_convergence_is_an_invariant(
    settled_s: float | None, answered_s: float | None, violations: int
) -> None:
    """I5: books and clients, within 30 s of the last fault."""
    run = replace(_run(), books_settled_s=settled_s, answered_s=answered_s)
    finish(run)
    assert violations == run.findings.broken["I5"]


def test_a_starved_machine_proves_nothing_about_time() -> None:
    """What did not converge there is no violation, and no pass."""
    run = replace(_run(), books_settled_s=80.0, late=LATE_MAX + 0.1)
    finish(run)
    assert 0 == run.findings.total
    assert ["too busy" in each for each in complaints(run)] == [True]
    assert [] == complaints(replace(run, books_settled_s=29.0))


def test_counts_go_on_when_no_more_violations_are_kept() -> None:
    """A thousand of one kind are as many, and do not fill the report."""
    findings = Findings()
    for number in range(KEPT_MAX + 5):
        findings.check("I1", False, f"violation {number}")
    findings.check("I2", True, "nothing")
    both = Findings()
    both.add(findings)
    assert (KEPT_MAX + 5, KEPT_MAX) == (both.total, len(both.violations))
    assert {"I1": KEPT_MAX + 5, "I2": 1} == both.looked


def test_what_was_not_looked_at_is_said() -> None:
    """An invariant without a check is not one that holds."""
    findings = Findings()
    findings.check("I1", True, "")
    lines = table(_run(findings))
    assert len(INVARIANTS) == len(lines)
    assert len(INVARIANTS) - 1 == sum("not exercised" in line for line in lines)


def test_the_report_is_json_and_has_everything() -> None:
    """Every figure that people are shown has its number there."""
    report = json.loads(json.dumps(as_json(_run())))
    assert set(INVARIANTS) == set(report["invariants"])
    assert {"order": 12, "etcd": 12} == report["kills"]
    assert any("left out: nothing" == line for line in figures(_run()))


def test_the_longest_calm_counts_from_the_beginning_and_to_the_end() -> None:
    """Not only between faults."""
    assert 4.0 == longest_calm_s([4.0, 6.0], 0.0, 8.0)
    assert 5.0 == longest_calm_s([1.0, 3.0], 0.0, 8.0)
