"""What a run comes to: figures, findings by invariant, and whether it was a test at all. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.chaos.faults import Cast
from tests.chaos.findings import INVARIANTS, NOT_YET, Findings

FAULT_EVERY_S = 5.0
# Of a campaign: what each role has of its kills at least. Of six roles one sixth is fair.
ROLE_SHARE_MIN = 0.12
CONVERGED_WITHIN_S = 30.0
# Looks are seven times as frequent; on a busy machine, and while a process starts, some fail.
SNAPSHOT_EVERY_S = 5.0
LATE_MAX = 2.0
VIOLATIONS_SHOWN = 20


@dataclass(slots=True, kw_only=True)
class Run:
    """The figures of one run; times in seconds."""

    seed: int
    lasted_s: float
    payments: int
    """Heard of between the first fault and the last, as the next two."""
    refused: int
    attempts: int
    faults: int
    kinds: Counter[str]
    kills: Counter[str]
    missed: int
    idle: int
    """Faults that hit nobody, since none of their processes was there; they count nowhere else."""
    clashes_refused: int
    """How often a key was refused for another body."""
    kills_asked: int
    """Of a campaign, 0 otherwise: its kills come when the mesh pays again, others by the clock."""
    takeovers: int
    takeovers_asked: int
    """Of a campaign of takeovers, 0 otherwise: nobody but coordinators is hurt in it."""
    unpaid_rounds: int
    """Of a campaign: after how many rounds too little was paid."""
    longest_calm_s: float
    books_settled_s: float | None
    """From the last fault until nothing was in doubt or held; None when that did not come."""
    answered_s: float | None
    """From the last fault until every client had its answer."""
    load: float
    """The machine's load average, its mean over the run."""
    late: float
    """After the last fault: how many times as long as asked for a sleep took."""
    snapshots: int
    """Under fire."""
    unread: int
    """Looks at the books that failed, since a file was locked or being recovered."""
    oldest_in_doubt_s: float
    cast: Cast
    left_out: Sequence[str]
    findings: Findings = field(repr=False)

    @property
    def starved(self) -> bool:
        """Whether the machine was too busy for its clock to say how long things take."""
        return self.late > LATE_MAX

    def converged_s(self) -> float | None:
        """From the last fault until everything was final."""
        if self.books_settled_s is None or self.answered_s is None:
            return None
        return max(self.books_settled_s, self.answered_s)


def finish(run: Run) -> None:
    """Adds what only the figures say: I5. On a starved machine that is a complaint instead."""
    run.findings.check(
        "I5",
        _in_time(run) or run.starved,
        f"after the last fault the books took {_took(run.books_settled_s)} to settle,"
        f" and clients {_took(run.answered_s)} to be answered",
    )


def complaints(run: Run) -> list[str]:
    """Why the run proves nothing, whatever it found."""
    never = [role for role in run.cast if not run.kills[role]]
    found = _unseen(run)
    if not run.payments:
        found.append("no payment went through under fire")
    if run.starved and not _in_time(run):
        found.append(f"too busy a machine to converge: sleeps took {run.late:.1f} times as long")
    if run.takeovers < run.takeovers_asked:
        found.append(f"{run.takeovers} takeovers, and {run.takeovers_asked} were asked for")
    if run.takeovers_asked:
        return found + _short_of_a_campaign(run)
    if never:
        found.append(f"never killed: {', '.join(never)}")
    paced = not run.kills_asked
    calm_s = run.longest_calm_s if paced else run.lasted_s / max(run.faults, 1)
    if calm_s > FAULT_EVERY_S:
        found.append(f"{calm_s:.1f} s without a new fault, and {FAULT_EVERY_S:g} are allowed")
    return found + _short_of_a_campaign(run)


def _short_of_a_campaign(run: Run) -> list[str]:
    """So many kills, every role its share of them, and payments in between."""
    found = []
    if run.kills.total() < run.kills_asked:
        found.append(f"{run.kills.total()} kills, and {run.kills_asked} were asked for")
    share = int(ROLE_SHARE_MIN * run.kills_asked)
    if rare := [role for role in run.cast if 0 < run.kills[role] < share]:
        found.append(f"killed less than {share} times: {', '.join(rare)}")
    if run.unpaid_rounds:
        found.append(f"too little was paid after {run.unpaid_rounds} of the rounds")
    return found


def _unseen(run: Run) -> list[str]:
    """What was not looked at cannot be wrong."""
    found = []
    unlooked = [name for name in INVARIANTS if not run.findings.looked[name]]
    if idle := [name for name in unlooked if name not in NOT_YET]:
        found.append(f"never looked at: {', '.join(idle)}")
    if not run.clashes_refused:
        found.append("no key was ever refused for another body")
    if run.snapshots * SNAPSHOT_EVERY_S < run.lasted_s:
        found.append(
            f"{run.snapshots} snapshots of the books in {run.lasted_s:.0f} s,"
            f" and one every {SNAPSHOT_EVERY_S:g} s is asked for"
        )
    return found


def table(run: Run) -> list[str]:
    """The invariants, one line each."""
    lines = []
    for name, says in INVARIANTS.items():
        looked, broken = run.findings.looked[name], run.findings.broken[name]
        result = f"{looked:>9,} checks {broken:>5,} violations" if looked else "  not exercised"
        lines.append(f"  {name}  {says:<56} {result}")
    return lines


def figures(run: Run) -> list[str]:
    """Everything else, for people."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in run.kinds.most_common())
    kills = ", ".join(f"{role} {run.kills[role]}" for role in run.cast)
    return [
        f"under fire {run.payments} payments and {run.refused} refusals in {run.lasted_s:.0f} s,"
        f" {run.attempts} attempts; {run.snapshots} snapshots of the books,"
        f" {run.unread} looks at them failed",
        f"faults: {kinds}; {run.missed} hit another one, since theirs was being started,"
        f" {run.idle} nobody",
        f"killed: {kills}; {run.takeovers} takeovers",
        f"at most {run.longest_calm_s:.1f} s without a new fault;"
        f" in doubt for at most {run.oldest_in_doubt_s:.1f} s",
        f"after the last fault: books settled in {_took(run.books_settled_s)},"
        f" every client answered in {_took(run.answered_s)}",
        f"load average of the machine {run.load:.1f}; after the last fault sleeps took"
        f" {run.late:.2f} times as long as asked for",
        *(f"left out: {what}" for what in run.left_out),
    ]


def as_json(run: Run) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "seed": run.seed,
        "lasted_s": round(run.lasted_s, 1),
        "payments": run.payments,
        "refused": run.refused,
        "attempts": run.attempts,
        "faults": run.faults,
        "faults_by_kind": dict(run.kinds),
        "kills": dict(run.kills),
        "missed": run.missed,
        "idle": run.idle,
        "clashes_refused": run.clashes_refused,
        "kills_asked": run.kills_asked,
        "takeovers": run.takeovers,
        "takeovers_asked": run.takeovers_asked,
        "unpaid_rounds": run.unpaid_rounds,
        "longest_calm_s": round(run.longest_calm_s, 1),
        "books_settled_s": run.books_settled_s,
        "answered_s": run.answered_s,
        "load": round(run.load, 1),
        "late": round(run.late, 2),
        "snapshots": run.snapshots,
        "unread": run.unread,
        "oldest_in_doubt_s": round(run.oldest_in_doubt_s, 1),
        "left_out": list(run.left_out),
        "invariants": {
            name: {"checks": run.findings.looked[name], "violations": run.findings.broken[name]}
            for name in INVARIANTS
        },
        "violations": [f"{v.invariant}: {v.what}" for v in run.findings.violations],
        "complaints": complaints(run),
    }


def longest_calm_s(began_s: Sequence[float], from_s: float, to_s: float) -> float:
    """The longest time without a new fault."""
    marks = [from_s, *sorted(began_s), to_s]
    return max(later - earlier for earlier, later in pairwise(marks))


def last_line(run: Run) -> str:
    """What programs look for."""
    takeovers = f" takeovers={run.takeovers}" if run.takeovers_asked else ""
    return f"faults={run.faults}{takeovers} payments={run.payments} violations={run.findings.total}"


def _in_time(run: Run) -> bool:
    converged_s = run.converged_s()
    return converged_s is not None and converged_s <= CONVERGED_WITHIN_S


def _took(seconds: float | None) -> str:
    return "no finite time" if seconds is None else f"{seconds:.1f} s"
