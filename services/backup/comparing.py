"""Reads a log and the books of its participants, and says what is open or cannot be.

Read in pages and joined by txn_id, so that books of any size fit.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from txn.audit import AuditRecord
from txn.reconcile import Evidence, Facts, Finding, Logged, Place, judge, judge_stores
from txn.state import BranchState
from txn.store import sql_audit
from txn.store.sql import Sql
from txn.store.sql_log import COLUMNS, decoded

# A read transaction on one store.
Snapshot: TypeAlias = Sql

PAGE_ROWS = 1_000
LOG = "coordinator"

# A row of the log, or a branch of a participant, after the id that both are sorted by.
Found: TypeAlias = tuple[str, Logged | tuple[Place, BranchState]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was looked at, and what was found, in the order of the ids."""

    transactions: int
    branches: int
    findings: tuple[Finding, ...]

    @property
    def contradictions(self) -> tuple[Finding, ...]:
        """What people have to look at before a mesh runs on these books."""
        return tuple(each for each in self.findings if each.kind.contradiction)


def compare(log: Snapshot, participants: Mapping[str, Snapshot]) -> Comparison:
    """Compares snapshots of one instant; of several, what changed meanwhile is found too."""
    facts = facts_of(log, participants)
    findings = list(judge_stores(facts))
    transactions = branches = 0
    for evidence in evidence_of(log, participants):
        transactions += 1
        branches += len(evidence.branches)
        findings.extend(judge(facts, evidence))
    return Comparison(transactions, branches, tuple(findings))


def evidence_of(log: Snapshot, participants: Mapping[str, Snapshot]) -> Iterator[Evidence]:
    """All that is known of each transaction, in the order of their ids."""
    rows: list[Iterator[Found]] = [_log_rows(log)]
    rows.extend(_branches(name, book) for name, book in participants.items())
    forced = _forced(log)
    for txn_id, those in groupby(heapq.merge(*rows, key=_txn_id), key=_txn_id):
        yield _evidence(txn_id, those)._replace(forced=forced.get(txn_id))


def _txn_id(found: Found) -> str:
    return found[0]


def _evidence(txn_id: str, found: Iterable[Found]) -> Evidence:
    logged: Logged | None = None
    branches: dict[Place, BranchState] = {}
    for _, each in found:
        if isinstance(each, Logged):
            logged = each
        else:
            branches[each[0]] = each[1]
    return Evidence(txn_id, logged, branches)


def facts_of(log: Snapshot, participants: Mapping[str, Snapshot]) -> Facts:
    """What is known of the log as a whole, and of the participants' horizons."""
    log_id = _first(log, "SELECT log_id FROM log_identity")
    truncated_to = _first(log, "SELECT MAX(txn_id) FROM truncation")
    newest = _first(log, "SELECT MAX(txn_id) FROM decision")
    query = "SELECT MAX(txn_id) FROM prepare_horizon WHERE log_id = ?"
    horizons = {name: _first(book, query, log_id) for name, book in participants.items()}
    return Facts(log_id, truncated_to, max(newest, truncated_to), horizons)


def _first(book: Snapshot, query: str, *parameters: str) -> str:
    rows = book.execute(query, parameters).fetchall()
    return rows[0][0] or "" if rows else ""


def _forced(log: Snapshot) -> dict[str, AuditRecord]:
    """The newest record of each transaction of which something was forced: those are few."""
    newest: dict[str, AuditRecord] = {}
    if not sql_audit.known(log):
        return newest
    after = 0
    while records := sql_audit.select(log, after=after, limit=PAGE_ROWS, txn_id=None):
        newest.update({record.txn_id: record for record in records})
        after = records[-1].number
    return newest


def _log_rows(log: Snapshot) -> Iterator[Found]:
    query = f"SELECT {COLUMNS} FROM decision WHERE txn_id > ? ORDER BY txn_id LIMIT ?"
    after = ""
    while rows := log.execute(query, (after, PAGE_ROWS)).fetchall():
        for decision in map(decoded, rows):
            votes = {
                Place(each.participant, each.branch_id): each.vote for each in decision.branches
            }
            yield decision.txn_id, Logged(decision.outcome, decision.ended, votes)
        after = rows[-1][0]


def _branches(name: str, book: Snapshot) -> Iterator[Found]:
    query = (
        "SELECT txn_id, branch_id, state FROM branch WHERE (txn_id, branch_id) > (?, ?) "
        "ORDER BY txn_id, branch_id LIMIT ?"
    )
    after: tuple[str, str] = ("", "")
    while rows := book.execute(query, (*after, PAGE_ROWS)).fetchall():
        for txn_id, branch_id, state in rows:
            yield txn_id, (Place(name, branch_id), BranchState(state))
        after = (rows[-1][0], rows[-1][1])
