"""What a log and books that are compared say of each other, as a table."""

from __future__ import annotations

import pytest

from txn.audit import AuditRecord, Signature
from txn.model import TxnId
from txn.reconcile import (
    Evidence,
    Facts,
    Finding,
    Kind,
    Logged,
    Place,
    Proof,
    judge,
    judge_stores,
    proof,
)
from txn.state import BranchState, Outcome, Vote

LOG_ID = "-log"
OLD, TXN, NEWEST = f"2{LOG_ID}", f"5{LOG_ID}", f"9{LOG_ID}"
BEFORE, AFTER = f"4{LOG_ID}", f"6{LOG_ID}"
PLACE = Place("ledger", "transfer")
OTHER = Place("order", "pay")
COMMITTED, ABORTED, PENDING = Outcome.COMMITTED, Outcome.ABORTED, Outcome.PENDING
PREPARED, DONE, UNDONE = BranchState.PREPARED, BranchState.COMMITTED, BranchState.ABORTED


def facts(horizon: str = BEFORE, truncated_to: str = OLD) -> Facts:
    """A log, and a ledger whose horizon is below or above TXN."""
    return Facts(LOG_ID, truncated_to, NEWEST, {"ledger": horizon})


def logged(outcome: Outcome, *, ended: bool = False, vote: Vote | None = Vote.COMMIT) -> Logged:
    """A row with one branch."""
    return Logged(outcome, ended, {PLACE: vote})


@pytest.mark.parametrize(
    ("row", "state", "horizon", "kind"),
    [
        (logged(COMMITTED), PREPARED, BEFORE, Kind.WILL_COMMIT),
        (logged(COMMITTED, ended=True), PREPARED, BEFORE, Kind.WILL_COMMIT),
        (logged(COMMITTED), DONE, BEFORE, None),
        (logged(COMMITTED), UNDONE, BEFORE, Kind.ABORTED_THERE),
        (logged(COMMITTED), None, BEFORE, Kind.LOST),
        (logged(COMMITTED, ended=True), None, BEFORE, Kind.LOST),
        (logged(COMMITTED, ended=True), None, AFTER, None),
        (logged(COMMITTED), None, AFTER, Kind.END_LOST),
        (logged(COMMITTED, vote=Vote.READ_ONLY), None, BEFORE, None),
        (logged(ABORTED), PREPARED, BEFORE, Kind.WILL_ABORT),
        (logged(ABORTED), DONE, BEFORE, Kind.COMMITTED_THERE),
        (logged(ABORTED), UNDONE, BEFORE, None),
        (logged(ABORTED), None, BEFORE, None),
        (logged(PENDING, vote=None), DONE, BEFORE, Kind.WILL_BE_ASKED),
        (logged(PENDING, vote=None), None, BEFORE, Kind.WILL_BE_ASKED),
        (logged(PENDING, vote=None), None, AFTER, Kind.END_LOST),
        (logged(PENDING, vote=None), PREPARED, BEFORE, Kind.UNDER_CLAIM),
        (None, PREPARED, BEFORE, Kind.WILL_ABORT),
        (None, DONE, BEFORE, Kind.UNLOGGED),
        (None, UNDONE, BEFORE, None),
    ],
)
def test_a_branch_is_held_against_the_row_of_its_transaction(
    row: Logged | None, state: BranchState | None, horizon: str, kind: Kind | None
) -> None:
    """For each row and each state of a branch: nothing, what resolves itself, or what cannot be."""
    branches = {} if state is None else {PLACE: state}
    found = list(judge(facts(horizon), Evidence(TXN, row, branches)))
    assert ([] if kind is None else [Finding(kind, TXN, *PLACE)]) == found


@pytest.mark.parametrize(
    ("state", "kind"), [(PREPARED, Kind.TOO_OLD), (DONE, None), (UNDONE, None)]
)
def test_what_is_older_than_the_log_says_nothing_unless_it_is_in_doubt(
    state: BranchState, kind: Kind | None
) -> None:
    """A commit whose row was truncated is forgotten later; a branch in doubt there never ends."""
    found = judge(facts(truncated_to=TXN), Evidence(TXN, None, {PLACE: state}))
    assert ([] if kind is None else [kind]) == [each.kind for each in found]


def test_what_the_log_would_abort_is_no_abort_where_a_branch_has_committed() -> None:
    """That a participant has committed shows what the decision was, though the log has lost it."""
    known = facts()._replace(horizons={"ledger": "", "order": ""})
    found = judge(known, Evidence(TXN, None, {PLACE: DONE, OTHER: PREPARED}))
    assert [
        Finding(Kind.UNLOGGED, TXN, *PLACE),
        Finding(Kind.SPLIT, TXN, *OTHER),
    ] == list(found)


@pytest.mark.parametrize(("state", "kinds"), [(PREPARED, [Kind.OTHER_LOG]), (DONE, [])])
def test_transactions_of_another_log_are_nobodys_unless_in_doubt(
    state: BranchState, kinds: list[Kind]
) -> None:
    """Nobody would answer for them."""
    found = judge(facts(), Evidence("5-other", None, {PLACE: state}))
    assert kinds == [each.kind for each in found]


def test_participants_that_were_not_looked_at_have_lost_nothing() -> None:
    """Of a branch elsewhere nothing is known."""
    row = Logged(COMMITTED, False, {PLACE: Vote.COMMIT, OTHER: Vote.COMMIT})
    assert [] == list(judge(facts(), Evidence(TXN, row, {PLACE: DONE})))


def test_a_horizon_above_the_log_shows_that_the_log_is_older() -> None:
    """No coordinator tells one above what its log has durably."""
    assert [] == list(judge_stores(facts(NEWEST)))
    above = f"a{LOG_ID}"
    assert [Finding(Kind.AHEAD, above, "ledger")] == list(judge_stores(facts(above)))


def test_only_what_resolves_itself_is_no_contradiction() -> None:
    """Three kinds need nobody, and one was seen to by somebody."""
    harmless = {kind for kind in Kind if not kind.contradiction}
    assert {
        Kind.WILL_COMMIT,
        Kind.WILL_ABORT,
        Kind.WILL_BE_ASKED,
        Kind.ENDED_BY_HAND,
    } == harmless


def forced(before: str, after: str) -> AuditRecord:
    """An operator's word."""
    return AuditRecord(1, TxnId(TXN), before, after, Signature("ann", "ticket 71", 1))


@pytest.mark.parametrize(
    ("before", "after", "row", "state", "kind"),
    [
        ("COMMITTED", "COMMITTED_ENDED", COMMITTED, None, Kind.ENDED_BY_HAND),
        ("COMMITTED", "COMMITTED_ENDED", COMMITTED, UNDONE, Kind.ENDED_BY_HAND),
        ("COMMITTED", "COMMITTED_ENDED", COMMITTED, PREPARED, Kind.WILL_COMMIT),
        ("ABORTED", "ABORTED_ENDED", ABORTED, DONE, Kind.ENDED_BY_HAND),
        # Nobody has settled anything yet.
        ("PENDING", "COMMITTED", COMMITTED, None, Kind.LOST),
        ("PENDING", "ABORTED", ABORTED, DONE, Kind.COMMITTED_THERE),
        # It was aborted as by an inquiry: what has committed contradicts that.
        ("NONE", "ABORTED_ENDED", ABORTED, DONE, Kind.COMMITTED_THERE),
        ("NONE", "ABORTED_ENDED", ABORTED, PREPARED, Kind.WILL_ABORT),
    ],
)
def test_what_an_operator_has_ended_is_no_loss(
    before: str, after: str, row: Outcome, state: BranchState | None, kind: Kind
) -> None:
    """Any other force leaves a contradiction one; whatever was forced is told with it."""
    record = forced(before, after)
    branches = {} if state is None else {PLACE: state}
    said = logged(row, ended=after.endswith("_ENDED"))
    found = list(judge(facts(), Evidence(TXN, said, branches, record)))
    assert [Finding(kind, TXN, *PLACE, record)] == found


BOTH = {PLACE: Vote.COMMIT, OTHER: Vote.COMMIT}
ENDED = Proof(TXN, (), ended=True)


@pytest.mark.parametrize(
    ("row", "branches", "horizon", "proven"),
    [
        (None, {PLACE: DONE, OTHER: DONE}, BEFORE, Proof(TXN, (PLACE, OTHER), ended=True)),
        (None, {PLACE: DONE, OTHER: PREPARED}, BEFORE, Proof(TXN, (PLACE, OTHER), ended=False)),
        # Somebody has aborted it all the same: no row makes that right.
        (None, {PLACE: DONE, OTHER: UNDONE}, BEFORE, None),
        # Nobody knows, so that presuming an abort harms neither book.
        (None, {PLACE: PREPARED, OTHER: PREPARED}, BEFORE, None),
        (Logged(COMMITTED, False, BOTH), {PLACE: DONE, OTHER: DONE}, BEFORE, None),
        (Logged(COMMITTED, False, BOTH), {PLACE: DONE}, AFTER, ENDED),
        (Logged(COMMITTED, False, BOTH), {}, AFTER, ENDED),
        # It will be told, and the end comes by itself.
        (Logged(COMMITTED, False, BOTH), {PLACE: PREPARED}, AFTER, None),
        # Lost, and not forgotten.
        (Logged(COMMITTED, False, BOTH), {}, BEFORE, None),
        # Forgotten aborts leave nothing either.
        (Logged(PENDING, False, {PLACE: None}), {}, AFTER, None),
        (Logged(ABORTED, True, BOTH), {PLACE: DONE}, BEFORE, None),
    ],
)
def test_what_books_prove_may_be_written_into_an_older_log(
    row: Logged | None, branches: dict[Place, BranchState], horizon: str, proven: Proof | None
) -> None:
    """A commit, or that it has ended; nothing where anything else is wrong."""
    known = facts()._replace(horizons={"ledger": horizon, "order": horizon})
    assert proven == proof(known, Evidence(TXN, row, branches))


def test_of_a_participant_that_was_not_looked_at_nothing_is_proven() -> None:
    """It may wait for the commit still."""
    row = Logged(COMMITTED, False, BOTH)
    assert None is proof(facts(AFTER), Evidence(TXN, row, {}))
