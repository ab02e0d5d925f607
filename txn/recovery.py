"""What a coordinator does before it serves, and when it takes over from another.

It takes up every commit and every claim without an end.

Transactions without a row need nothing: they were never decided, so they are aborts,
and their participants ask. Re-entrant: a crash in here only means doing it again,
because commit messages are idempotent and the end is written after the last
acknowledgement.
"""

from __future__ import annotations

from collections.abc import Callable

from txn.decision_log import DecisionLog
from txn.model import Decision, Epoch, epoch_of

RECOVERY_PAGE = 500


async def recover(
    log: DecisionLog, inherited: frozenset[Epoch], resume: Callable[[Decision], None]
) -> int:
    """Hands every unfinished commit, and every claim, of those epochs to `resume`.

    Returns how many there were.
    """
    count = 0
    after = ""
    while page := await log.list_decisions(after=after, limit=RECOVERY_PAGE, unfinished_only=True):
        for decision in page:
            if epoch_of(decision.txn_id) in inherited:
                resume(decision)
                count += 1
        after = page[-1].txn_id
    return count
