"""Writes into a log that is older than the books what the books prove: see txn/reconcile.py.

It is for one case: the log was lost, and a backup of it was put beside books that are not older.
A participant that has committed proves the decision, so that what is still prepared elsewhere is
committed too, and not presumed aborted. What nothing proves stays as it is; of the caller's key
nothing is known any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from services.backup.books import Books, Instant
from services.backup.comparing import LOG, evidence_of, facts_of
from services.backup.errors import NotTaken
from services.backup.working import participants_in
from txn.clock import Clock, SystemClock
from txn.decision_log import DecisionLog
from txn.model import BranchId, Decision, LoggedBranch, RequestKey, TxnId
from txn.reconcile import Proof, proof
from txn.state import Outcome, Vote

# Whoever asked for it is not known: a caller's name and key of its own stand for it.
CALLER = "reconciled"
REASON = "RECONCILED"
ROWS_AT_ONCE = 256


async def reconcile(books: Books, clock: Clock | None = None) -> list[Proof]:
    """Writes what is proven; returns it. No coordinator may run. Raises BackupError."""
    now_us = (clock or SystemClock()).utc_us()
    async with books.own_log() as (store, log):
        with books.at_one_instant() as instant:
            found = list(_proofs(instant))
        lost = [_decision(each, now_us) for each in found if each.places]
        for at in range(0, len(lost), ROWS_AT_ONCE):
            await _insert(log, lost[at : at + ROWS_AT_ONCE])
        if ends := [TxnId(each.txn_id) for each in found if not each.places]:
            log.end_all(ends, lambda: None)
            # Ends ride along with a force, and this is one.
            await store.write(lambda _: None)
    return found


def _proofs(instant: Instant) -> Iterable[Proof]:
    log, participants = instant.stores[LOG], participants_in(instant.stores)
    facts = facts_of(log, participants)
    proofs = (proof(facts, each) for each in evidence_of(log, participants))
    return [each for each in proofs if each is not None]


async def _insert(log: DecisionLog, rows: list[Decision]) -> None:
    stand = await log.decide_all(rows)
    wrong = [row.txn_id for row, stands in zip(rows, stand, strict=True) if row != stands]
    if wrong:
        raise NotTaken(f"{wrong[0]} could not be written")


def _decision(found: Proof, now_us: int) -> Decision:
    return Decision(
        TxnId(found.txn_id),
        Outcome.COMMITTED,
        RequestKey(CALLER, found.txn_id, hashlib.sha256(b"").digest()),
        tuple(
            LoggedBranch(BranchId(branch_id), participant, Vote.COMMIT)
            for participant, branch_id in found.places
        ),
        now_us,
        reason=REASON,
        ended=found.ended,
    )
