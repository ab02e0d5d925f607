"""What an operator changes by force, and the record that is written with the change.

Pure: the rule what may take the place of what, which every log applies in the local
transaction that writes both. An outcome that stands is never another one afterwards; what
may be forced is the rest:

    nothing stands                       ABORTED, as an inquiry would have it
    a claim, whose participant knows     COMMITTED or ABORTED, as the operator has found out
    an outcome without an end            its end: what is left was settled by hand
"""

from __future__ import annotations

from typing import NamedTuple

from txn.errors import FieldViolation, InvalidOperation
from txn.model import Decision, TxnId
from txn.state import Outcome
from txn.value import value

OPERATOR_LENGTH_MAX = 64
AUDIT_REASON_LENGTH_MAX = 500

NOTHING = "NONE"
_ENDED = "_ENDED"


@value
class Signature:
    """Who forces something, why, and when: UTC, microseconds since 1970.

    Raises InvalidOperation unless both texts are there, printable, and within their limits.
    """

    operator: str
    reason: str
    signed_at_us: int

    def __post_init__(self) -> None:
        """Nobody forces anything without a name and a reason."""
        violations = [
            FieldViolation(name, f"{name}.bounded", f"must have 1 to {limit} printable characters")
            for name, text, limit in (
                ("operator", self.operator, OPERATOR_LENGTH_MAX),
                ("reason", self.reason, AUDIT_REASON_LENGTH_MAX),
            )
            if not (text.strip() and text.isprintable() and len(text) <= limit)
        ]
        if violations:
            raise InvalidOperation(violations)


@value
class AuditRecord:
    """One forced change, for ever. `number` ascends within its log.

    `before` and `after` are what stood in the log: NONE, PENDING, COMMITTED, ABORTED, the
    latter two with _ENDED once nobody has to hear of it any more.
    """

    number: int
    txn_id: TxnId
    before: str
    after: str
    signature: Signature


class Forced(NamedTuple):
    """What stands after a force; `record` is None where it was refused and nothing was changed."""

    stands: Decision | None
    record: AuditRecord | None


def standing(row: Decision | None) -> str:
    """What stands in the log, in the words of AuditRecord."""
    if row is None:
        return NOTHING
    name = row.outcome.value
    return name + _ENDED if row.ended and row.outcome is not Outcome.PENDING else name


def settled_by_hand(record: AuditRecord) -> bool:
    """Whether it is the end of an outcome that somebody had still to hear of."""
    stood = record.before in (Outcome.COMMITTED.value, Outcome.ABORTED.value)
    return stood and record.after == record.before + _ENDED


def may_take_the_place(row: Decision, stands: Decision | None, over: Outcome | None) -> bool:
    """Whether an operator's word makes `row` stand; see the module's docstring.

    `over` is what stood when the word was given, None for nothing: who aborts what has no row
    has not looked what became of a claim that came first.
    """
    if over is not (None if stands is None else stands.outcome):
        return False
    if stands is None:
        return row.outcome is Outcome.ABORTED
    if stands.txn_id != row.txn_id or stands.request != row.request:
        return False
    if stands.outcome is Outcome.PENDING:
        return row.outcome is not Outcome.PENDING
    return row.outcome is stands.outcome and row.ended and not stands.ended
