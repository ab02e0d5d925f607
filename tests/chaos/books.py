"""The books of order, ledger and coordinator as values, read at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

COMMITTED, ABORTED, PREPARED = "COMMITTED", "ABORTED", "PREPARED"
# Of a claim: a single branch that takes one phase is decided by its participant, and the
# log's row says that it was asked until the outcome is written there, too.
PENDING = "PENDING"
MAY_BE_COMMITTED = frozenset({COMMITTED, PENDING})
PAYING, SUCCESS = "PAYING", "TRADE_SUCCESS"


class Account(NamedTuple):
    """One row of the ledger, amounts in minor units."""

    account_id: str
    currency: str
    limit_minor: int
    posted_minor: int
    held_minor: int


class Entry(NamedTuple):
    """One journal entry: what it says, and what its postings sum to."""

    txn_id: str
    branch_id: str
    reference: str
    debit: str
    credit: str
    amount_minor: int
    sum_minor: int = 0


class Hold(NamedTuple):
    """What a prepared branch has reserved."""

    txn_id: str
    branch_id: str
    debit: str
    amount_minor: int


class BranchRow(NamedTuple):
    """What a participant remembers of a branch."""

    txn_id: str
    branch_id: str
    state: str


class Trade(NamedTuple):
    """One row of order."""

    trade_no: str
    state: str
    txn_id: str
    amount_minor: int
    payee: str
    payer: str


class Decision(NamedTuple):
    """One row of the coordinator's log. `key` is empty for an abort that an inquiry wrote."""

    txn_id: str
    outcome: str
    key: str
    reason: str
    ended: int


@dataclass(slots=True)
class Ledger:
    """One snapshot; `entries` are all, or those that are new since another one."""

    accounts: list[Account] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    branches: list[BranchRow] = field(default_factory=list)
    posted: dict[str, int] = field(default_factory=dict)
    """What the whole journal comes to, by account."""
    last_entry_id: int = 0


@dataclass(slots=True)
class Order:
    """One snapshot."""

    trades: list[Trade] = field(default_factory=list)
    branches: list[BranchRow] = field(default_factory=list)


@dataclass(slots=True)
class Books:
    """The participants' books, and the log, which was read after them.

    What a participant has committed was decided before: so the log has it.
    """

    ledger: Ledger
    order: Order
    decisions: dict[str, Decision]

    def unfinished(self) -> list[str]:
        """What is in doubt, held or being paid."""
        return [
            *(f"ledger branch {b.txn_id} {b.branch_id}" for b in _prepared(self.ledger.branches)),
            *(f"order branch {b.txn_id}" for b in _prepared(self.order.branches)),
            *(f"hold {hold.txn_id} {hold.branch_id}" for hold in self.ledger.holds),
            *(f"held on {a.account_id}" for a in self.ledger.accounts if a.held_minor),
            *(f"paying {t.trade_no}" for t in self.order.trades if t.state == PAYING),
        ]

    def endless(self) -> list[str]:
        """Commits whose END is not in the log: it comes with the next group that is written."""
        return [
            row.txn_id
            for row in self.decisions.values()
            if row.outcome in MAY_BE_COMMITTED and not row.ended
        ]


def _prepared(branches: list[BranchRow]) -> list[BranchRow]:
    return [branch for branch in branches if branch.state == PREPARED]
