"""Looks at the books while everything goes on: I1, I5 and I6 in each snapshot. Pure."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from tests.chaos.books import COMMITTED, MAY_BE_COMMITTED, Books, Hold
from tests.chaos.checker import check_accounts, check_branches
from tests.chaos.findings import Findings
from tests.chaos.reading import passing

AGE_MAX_S = 30.0
# What one look counts at most. On a machine that gives nobody its turn looks are rare, and
# whoever is looked at does not get on either.
COUNTED_MAX_S = 1.5


@dataclass(slots=True)
class _Pending:
    """Something that must not stay: since when it is there, with and without the faults."""

    since_s: float
    calm_s: float = 0.0
    told: bool = False


@dataclass(slots=True)
class Watch:
    """Takes snapshots one after the other.

    The age of what is in doubt counts while nothing is broken, by looks: I5 says what has to
    hold so long after a fault is healed. `oldest_s` is its age by the clock, faults and all.
    """

    found: Findings = field(default_factory=Findings)
    looked_s: list[float] = field(default_factory=list)
    """When each snapshot was taken in."""
    unread: int = 0
    """Looks that failed for a reason that passes."""
    oldest_s: float = 0.0
    in_doubt: int = 0
    _pending: dict[str, _Pending] = field(default_factory=dict)
    _holds: dict[tuple[str, str], Hold] = field(default_factory=dict)
    _looked_s: float | None = None

    @property
    def held(self) -> frozenset[str]:
        """Whose decisions the next snapshot has to have: their holds may be gone by then."""
        return frozenset(txn_id for txn_id, _ in self._holds)

    def look(self, books: Books, *, now_s: float, calm: bool) -> None:
        """Takes in one snapshot; `calm` when nothing was broken since the one before."""
        self.looked_s.append(now_s)
        check_accounts(self.found, books.ledger)
        self._check_decided(books)
        self._check_holds(books)
        self._check_ages(books, now_s, calm)

    def failed(self, error: sqlite3.Error) -> None:
        """Takes in that there is no snapshot: books that nobody can read are not in order."""
        if passing(error):
            self.unread += 1
        else:
            self.found.check("I1", False, f"the books cannot be read: {error!r}")

    def snapshots(self, from_s: float, to_s: float) -> int:
        """How many were taken in between."""
        return sum(from_s <= at_s <= to_s for at_s in self.looked_s)

    def _check_decided(self, books: Books) -> None:
        """What is committed at a participant has its row: the log was read after it."""
        for entry in books.ledger.entries:
            row = books.decisions.get(entry.txn_id)
            self.found.check(
                "I6",
                row and row.outcome in MAY_BE_COMMITTED,
                f"{entry} is posted, and the log has {row}",
            )
        for name, part in (("ledger", books.ledger), ("order", books.order)):
            check_branches(self.found, "I6", name, part.branches, books.decisions)

    def _check_holds(self, books: Books) -> None:
        """A hold goes into the journal, or is given back because the transaction aborts.

        What was held stays known for one more snapshot, so that its decision is looked at
        after it went.
        """
        posted = {(entry.txn_id, entry.branch_id) for entry in books.ledger.entries}
        held = {(hold.txn_id, hold.branch_id): hold for hold in books.ledger.holds}
        for key in self._holds.keys() - held.keys():
            row = books.decisions.get(key[0])
            dropped = row is not None and row.outcome == COMMITTED and key not in posted
            self.found.check("I6", not dropped, f"the hold of {key} is gone, and it is committed")
        self._holds = held

    def _check_ages(self, books: Books, now_s: float, calm: bool) -> None:
        passed_s = 0.0
        if self._looked_s is not None and calm:
            passed_s = min(now_s - self._looked_s, COUNTED_MAX_S)
        self._looked_s = now_s
        there = [what for what in books.unfinished() if not what.startswith("held on")]
        self.in_doubt = len(there)
        self._pending = {what: self._pending.get(what) or _Pending(since_s=now_s) for what in there}
        for what, pending in self._pending.items():
            pending.calm_s += passed_s
            self.oldest_s = max(self.oldest_s, now_s - pending.since_s)
            if not pending.told:
                late = pending.calm_s > AGE_MAX_S
                self.found.check("I5", not late, f"{what} for {pending.calm_s:.0f} s in peace")
                pending.told = late
