"""What became of one transaction, message by message and force by force. Pure.

While it runs, a transaction only appends a small tuple for each of these (`Moment`): what was
sent, what was answered, what stood. They are read and put into words when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

from txn import protocol
from txn.audit import AuditRecord
from txn.errors import Alarm, Busy, Refused, TxnError, Unreachable
from txn.model import (
    Abort,
    BranchId,
    Commit,
    Decision,
    Message,
    Perform,
    Prepare,
    Reply,
    Resolve,
)
from txn.state import Outcome
from txn.value import value

# Of one transaction; of more, those in the middle are dropped: the newest are always there.
MOMENTS_MAX = 160
MOMENTS_FIRST_MAX = 96
# Of those that are over, the newest.
FINISHED_MAX = 1_000
ERROR_NAME_CHARS_MAX = 64


class Happening(Enum):
    """What an entry of a timeline is about."""

    BEGUN = "BEGUN"
    """A caller has asked for it."""
    RESUMED = "RESUMED"
    """It was taken up from the log, after a restart."""
    PREPARE_SENT = "PREPARE_SENT"
    COMMIT_SENT = "COMMIT_SENT"
    ABORT_SENT = "ABORT_SENT"
    PERFORM_SENT = "PERFORM_SENT"
    RESOLVE_SENT = "RESOLVE_SENT"
    VOTED = "VOTED"
    """A participant has answered; the detail is its vote, and its reason."""
    FAILED = "FAILED"
    """An attempt had no answer, or one that says nothing; the detail names the error."""
    ALARMED = "ALARMED"
    """A participant has answered that a promise is broken."""
    GIVEN_UP = "GIVEN_UP"
    """It is not asked any more: no vote in time, or nobody to hear of an abort."""
    CLAIM_DURABLE = "CLAIM_DURABLE"
    OUTCOME_DURABLE = "OUTCOME_DURABLE"
    """An outcome row stands; the detail is the outcome."""
    ACKNOWLEDGED = "ACKNOWLEDGED"
    STATED = "STATED"
    """An operator has said what its participant has done."""
    END_DURABLE = "END_DURABLE"
    """Nobody has to hear of it any more."""
    FORCED = "FORCED"
    """An operator has changed what stands; the detail is the record."""
    REMEMBERED = "REMEMBERED"
    """What a participant remembers of its branch; the time is that of its vote."""


class Mark(Enum):
    """Moments that are neither a message nor an event of the protocol."""

    RESUMED = "RESUMED"
    GIVEN_UP = "GIVEN_UP"
    END_DURABLE = "END_DURABLE"


class Failure(NamedTuple):
    """Why an attempt has to be made again."""

    name: str
    alarm: bool


Noted: TypeAlias = type[Message] | protocol.Event | Failure | Mark
# Monotonic seconds, what, at which branch (empty where the event says so), attempts before.
Moment: TypeAlias = tuple[float, Noted, str, int]


@value
class Entry:
    """One line of a timeline. `at_us` is UTC, microseconds since 1970; None when not known.

    `attempt` counts from 1, and is 0 where nothing was attempted.
    """

    at_us: int | None
    happening: Happening
    branch_id: str = ""
    participant: str = ""
    attempt: int = 0
    detail: str = ""


_SENT: Final[Mapping[type[Message], Happening]] = {
    Prepare: Happening.PREPARE_SENT,
    Commit: Happening.COMMIT_SENT,
    Abort: Happening.ABORT_SENT,
    Perform: Happening.PERFORM_SENT,
    Resolve: Happening.RESOLVE_SENT,
}
_MARKED: Final[Mapping[Mark, Happening]] = {mark: Happening(mark.value) for mark in Mark}


def _voted(event: protocol.Voted) -> tuple[Happening, str, str]:
    detail = f"{event.vote.value} {event.reason}".rstrip()
    return Happening.VOTED, event.branch_id, detail


_HAPPENED: Final[Mapping[type[Any], Callable[[Any], tuple[Happening, str, str]]]] = {
    protocol.Voted: _voted,
    protocol.PrepareFailed: lambda e: (Happening.GIVEN_UP, e.branch_id, e.reason),
    protocol.OutcomeStands: lambda e: (Happening.OUTCOME_DURABLE, "", e.outcome.value),
    protocol.Settled: lambda e: (Happening.ACKNOWLEDGED, e.branch_id, ""),
    protocol.ClaimStands: lambda _: (Happening.CLAIM_DURABLE, "", ""),
    protocol.Stated: lambda e: (Happening.STATED, "", e.outcome.value),
}


def failure_of(reply: Reply) -> Failure:
    """The name of what came in place of an answer: never its text, which may be anything."""
    if isinstance(reply, Busy | Refused):
        name = reply.reason
    elif isinstance(reply, Unreachable):
        name = str(reply)
    else:
        name = type(reply).__name__ if isinstance(reply, TxnError) else "NO_ANSWER"
    return Failure(name[:ERROR_NAME_CHARS_MAX], isinstance(reply, Alarm))


def trim(moments: list[Moment]) -> int:
    """Drops moments in the middle of too many; returns how many."""
    over = len(moments) - MOMENTS_MAX
    if over <= 0:
        return 0
    del moments[MOMENTS_FIRST_MAX : MOMENTS_FIRST_MAX + over]
    return over


def last_failure(moments: Sequence[Moment], branch_id: str) -> tuple[Failure | None, int]:
    """The newest failure at a branch, and how often what was sent last has been sent."""
    attempts = 0
    for _, noted, at, tried in reversed(moments):
        if at != branch_id:
            continue
        if isinstance(noted, Failure):
            return noted, max(attempts, tried + 1)
        if isinstance(noted, type):
            attempts = attempts or tried + 1
    return None, attempts


def entries_of(
    moments: Iterable[Moment],
    participants: Mapping[BranchId, str],
    utc_us_of: Callable[[float], int],
) -> list[Entry]:
    """Moments in words; `utc_us_of` says when, by UTC, that was on the monotonic clock."""
    entries: list[Entry] = []
    given_up: set[str] = set()
    for moment in moments:
        _, noted, branch_id, _ = moment
        if noted is Mark.GIVEN_UP:
            given_up.add(branch_id)
        if isinstance(noted, protocol.Settled) and noted.branch_id in given_up:
            # To the protocol that is the same: nobody waits for it any more.
            continue
        entries.append(_entry(moment, participants, utc_us_of))
    return entries


def _entry(
    moment: Moment, participants: Mapping[BranchId, str], utc_us_of: Callable[[float], int]
) -> Entry:
    at_s, noted, branch_id, tried = moment
    attempt, detail = 0, ""
    if isinstance(noted, type):
        happening, attempt = _SENT[noted], tried + 1
    elif isinstance(noted, Failure):
        happening = Happening.ALARMED if noted.alarm else Happening.FAILED
        attempt, detail = tried + 1, noted.name
    elif isinstance(noted, Mark):
        happening = _MARKED[noted]
    else:
        happening, branch_id, detail = _HAPPENED[type(noted)](noted)
    participant = participants.get(BranchId(branch_id), "")
    return Entry(utc_us_of(at_s), happening, branch_id, participant, attempt, detail)


def entries_of_row(row: Decision) -> list[Entry]:
    """What the log itself says, where nobody remembers more."""
    claim = row.outcome is Outcome.PENDING
    happening = Happening.CLAIM_DURABLE if claim else Happening.OUTCOME_DURABLE
    entries = [Entry(row.decided_at_us, happening, detail="" if claim else row.outcome.value)]
    if row.ended:
        entries.append(Entry(None, Happening.END_DURABLE))
    return entries


def entry_of_record(record: AuditRecord) -> Entry:
    """A force, as its record has it."""
    by = record.signature
    change = f"{record.before} -> {record.after} by {by.operator}: {by.reason}"
    return Entry(by.signed_at_us, Happening.FORCED, detail=change)


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """By their times; those of the same time, and without one, stay where they are."""
    ordered: list[tuple[int, Entry]] = []
    at_us = 0
    for entry in entries:
        at_us = at_us if entry.at_us is None else entry.at_us
        ordered.append((at_us, entry))
    return [entry for _, entry in sorted(ordered, key=lambda each: each[0])]
