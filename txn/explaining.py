"""The timeline of one transaction, from what is remembered and from what is written.

After a restart, or when it is long over, only the log, its records and the participants
know something: then the gaps say what is not known any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from txn.audit import AuditRecord
from txn.clock import US_PER_S
from txn.model import Decision, TxnId
from txn.timeline import (
    Entry,
    Happening,
    Mark,
    entries_of,
    entries_of_row,
    entry_of_record,
    in_order,
)
from txn.transaction import Transaction, View
from txn.value import value

# Of one transaction; those before and after it are found with ListAuditRecords.
RECORDS_SHOWN_MAX = 100
NOT_REMEMBERED = (
    "its messages are not remembered: the coordinator was started since, or too many came after it"
)
BEFORE_RESTART = "what was before it was taken up again, after a restart, is not remembered"
NO_ROW = "the log has no outcome of it, or not any more"


class Now(NamedTuple):
    """One moment on both clocks."""

    monotonic_s: float
    utc_us: int

    def utc_us_of(self, at_s: float) -> int:
        """The UTC, in microseconds, of a moment on the monotonic clock."""
        return self.utc_us + round((at_s - self.monotonic_s) * US_PER_S)


@value
class Explanation:
    """What is known of a transaction. `view` is None where its row is not there."""

    txn_id: TxnId
    view: View | None
    entries: Sequence[Entry]
    gaps: Sequence[str]


def explain(
    txn_id: TxnId,
    view: View | None,
    remembered: Transaction | None,
    row: Decision | None,
    records: Sequence[AuditRecord],
    now: Now,
) -> Explanation:
    """Puts together what its coordinator remembers, what stands, and what was forced."""
    if remembered is None:
        entries = [] if row is None else entries_of_row(row)
        gaps = [NOT_REMEMBERED]
    else:
        entries, gaps = _remembered(remembered, now)
    if view is None:
        gaps.append(NO_ROW)
    entries += [entry_of_record(record) for record in records]
    return Explanation(txn_id, view, in_order(entries), gaps)


def _remembered(transaction: Transaction, now: Now) -> tuple[list[Entry], list[str]]:
    gaps: list[str] = []
    entries = entries_of(transaction.moments, transaction.participants, now.utc_us_of)
    if transaction.moments and transaction.moments[0][1] is Mark.RESUMED:
        gaps.append(BEFORE_RESTART)
    else:
        entries.insert(0, Entry(now.utc_us_of(transaction.began_s), Happening.BEGUN))
    if transaction.dropped:
        gaps.append(f"{transaction.dropped} attempts in between are not remembered")
    if (winner := transaction.lost_to()) is not None:
        gaps.append(f"its key belongs to {winner.txn_id}, which came first")
    return entries, gaps
