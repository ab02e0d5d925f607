"""Transactions as people read them in a terminal: lines, and columns that line up. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from tallystick.txn.v1 import coordinator_service_pb2 as pb
from tallystick.txn.v1 import participant_service_pb2

from discovery.cli.text import printable, shortened, table

_TRANSACTIONS = ("TXN_ID", "AGE", "STATE", "WAITS FOR", "VOTE", "ATTEMPTS", "LAST ERROR")
_TIMELINE = ("TIME (UTC)", "WHAT", "BRANCH", "PARTICIPANT", "ATTEMPT", "DETAIL")
_RECORDS = ("NUMBER", "TIME (UTC)", "TXN_ID", "BEFORE", "AFTER", "OPERATOR", "REASON")


def transaction_lines(
    transactions: Iterable[pb.Transaction], *, every_branch: bool = False
) -> Sequence[str]:
    """A line for each branch that its transaction waits for, or for a transaction without one."""
    rows: list[Sequence[str]] = []
    for each in transactions:
        state = _bare(pb.TransactionState.Name(each.state), "TRANSACTION_STATE_")
        head = (each.txn_id, _age(each), state)
        waiting = [branch for branch in each.branches if not branch.acknowledged]
        shown = each.branches if every_branch else waiting
        rows += [(*head, *_branch(branch)) for branch in shown] or [(*head, "", "", "", "")]
    return table(_TRANSACTIONS, rows) if rows else ["nothing"]


def _branch(branch: pb.TransactionBranch) -> Sequence[str]:
    vote = participant_service_pb2.Vote.Name(branch.vote) if branch.vote else ""
    waits = "" if branch.acknowledged else branch.participant
    error = f"ALARM {branch.last_error}" if branch.alarmed else branch.last_error
    return (waits, _bare(vote, "VOTE_"), str(branch.attempts or ""), shortened(error))


def _age(transaction: pb.Transaction) -> str:
    if not transaction.HasField("age"):
        return ""
    minutes, seconds = divmod(transaction.age.ToSeconds(), 60)
    if not minutes:
        return f"{seconds}s"
    return f"{minutes}m{seconds:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def explained_lines(explained: pb.ExplainTransactionResponse) -> Sequence[str]:
    """What stands, the timeline, and what is not known."""
    lines = [f"transaction  {explained.txn_id}"]
    if explained.HasField("transaction"):
        known = explained.transaction
        lines += [
            f"key          {printable(known.idempotency_key) or '-'}",
            f"state        {_bare(pb.TransactionState.Name(known.state), 'TRANSACTION_STATE_')}",
            f"outcome      {_bare(pb.Outcome.Name(known.outcome), 'OUTCOME_')} "
            f"{printable(known.reason)}".rstrip(),
        ]
    if explained.entries:
        lines += ["", *table(_TIMELINE, [_entry(entry) for entry in explained.entries])]
    if explained.gaps:
        lines += ["", *(f"not known: {printable(gap)}" for gap in explained.gaps)]
    return lines


def _entry(entry: pb.TimelineEntry) -> Sequence[str]:
    return (
        _time(entry.time) if entry.HasField("time") else "",
        _bare(pb.Happening.Name(entry.happening), "HAPPENING_"),
        entry.branch_id,
        entry.participant,
        str(entry.attempt or ""),
        entry.detail,
    )


def audit_lines(records: Iterable[pb.AuditRecord]) -> Sequence[str]:
    """What was forced, by whom, and why."""
    rows = [
        (
            str(each.number),
            _time(each.sign_time),
            each.txn_id,
            each.before,
            each.after,
            each.operator,
            each.reason,
        )
        for each in records
    ]
    return table(_RECORDS, rows) if rows else ["nothing"]


def _time(at: Timestamp) -> str:
    return at.ToDatetime().isoformat(sep=" ", timespec="milliseconds")


def _bare(name: str, prefix: str) -> str:
    return name.removeprefix(prefix)
