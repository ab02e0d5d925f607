"""check_participant: right resources pass, and each kind of wrong one is caught and named."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.txn.wrong_participants import (
    SCHEMA,
    AlwaysBusy,
    Awaits,
    Batches,
    Caches,
    CannotDoTwo,
    ChecksAndHoldsNothing,
    ChecksAtCommit,
    ClosesIt,
    CommitsItself,
    Counts,
    DoesNothing,
    Elsewhere,
    ExplainsAtLength,
    ExplainsBatchesAtLength,
    FailsAtAbort,
    FailsAtCommit,
    ForgetsOnceAborted,
    ForgetsTheBatch,
    ForgetsToVote,
    ForgetsToVoteInBatches,
    GivesBackTooMuch,
    GivesUp,
    KeyedByTransaction,
    LeavesOutRefusals,
    MixesUpVotes,
    NeedsTwoTransactions,
    NeverGivesBack,
    OnOperation,
    OwesAtCommit,
    OwesAtPrepare,
    OwnConnection,
    Queueing,
    RaisesSomething,
    ReadsOwnConnection,
    RefusesAll,
    Remembers,
    Vouchers,
    WritesAndRefuses,
    WritesAndVotesReadOnly,
    stock,
)
from txn.participant_check.site import unheard
from txn.store.opening import schema_of
from txn.testing import BrokenRules, Rule, check_participant

DEADLINE_S = 60.0

WRONG: list[tuple[type[Vouchers], Rule]] = [
    (NeverGivesBack, Rule.ABORT_GIVES_BACK),
    (GivesBackTooMuch, Rule.BRANCHES_ARE_APART),
    (KeyedByTransaction, Rule.BRANCHES_ARE_APART),
    (Remembers, Rule.SURVIVES_RESTART),
    (Counts, Rule.NOTHING_ELSEWHERE),
    (Caches, Rule.NOTHING_ELSEWHERE),
    (ForgetsOnceAborted, Rule.NOTHING_ELSEWHERE),
    (OwnConnection, Rule.ANSWERS),
    (ReadsOwnConnection, Rule.HOLDS),
    (ChecksAtCommit, Rule.REFUSES),
    (ChecksAndHoldsNothing, Rule.HOLDS),
    (FailsAtCommit, Rule.COMMIT_SUCCEEDS),
    (OwesAtCommit, Rule.CAN_BE_COMMITTED),
    (OwesAtPrepare, Rule.CAN_BE_COMMITTED),
    (GivesUp, Rule.CAN_BE_COMMITTED),
    (ClosesIt, Rule.TRANSACTION),
    (FailsAtAbort, Rule.ABORT_SUCCEEDS),
    (DoesNothing, Rule.COMMIT_TAKES_EFFECT),
    (ForgetsToVote, Rule.ANSWERS),
    (RaisesSomething, Rule.ANSWERS),
    (AlwaysBusy, Rule.REFUSES),
    (RefusesAll, Rule.ACCEPTS),
    (ExplainsAtLength, Rule.REASONS),
    (WritesAndVotesReadOnly, Rule.READ_ONLY_CHANGES_NOTHING),
    (CommitsItself, Rule.TRANSACTION),
    (Awaits, Rule.PLAIN_METHODS),
    (MixesUpVotes, Rule.BATCHES_ARE_ALIKE),
    (LeavesOutRefusals, Rule.BATCHES_ARE_ALIKE),
    (ForgetsTheBatch, Rule.BATCHES_ARE_ALIKE),
    (NeedsTwoTransactions, Rule.ONE_PHASE),
    (WritesAndRefuses, Rule.REFUSAL_CHANGES_NOTHING),
    (ExplainsBatchesAtLength, Rule.REASONS),
    (ForgetsToVoteInBatches, Rule.ANSWERS),
    (CannotDoTwo, Rule.BATCHES_ARE_ALIKE),
]


async def check(resource: Callable[[], Any], setup: Callable[[Any], object] = stock) -> None:
    """With the samples of all of them."""
    async with asyncio.timeout(DEADLINE_S):
        await check_participant(
            resource,
            schema=SCHEMA,
            setup=setup,
            accepted=["A", "B"],
            refused=["NO", "UNKNOWN"] if resource is not Counts else ["NO"],
            rivals=[("ONE", "ONE")],
        )


async def test_what_is_noted_on_an_operation_is_lost() -> None:
    """Commit reads the operation anew, as prepare was given it."""
    with pytest.raises(BrokenRules) as caught:
        await check_participant(
            OnOperation, schema=SCHEMA, setup=stock, accepted=[["A"]], refused=[["NO"]], rivals=()
        )
    assert Rule.COMMIT_SUCCEEDS in caught.value.broken


async def test_what_is_kept_elsewhere_is_noticed(tmp_path: Path) -> None:
    """A file of its own outlives what the local transaction has undone."""
    with pytest.raises(BrokenRules) as caught:
        await check_participant(
            lambda: Elsewhere(tmp_path / "own.db"),
            schema=SCHEMA,
            setup=stock,
            accepted=["A"],
            refused=["NO"],
            rivals=(),
        )
    assert Rule.NOTHING_ELSEWHERE is next(iter(caught.value.broken)), str(caught.value)


async def test_a_group_that_is_lost_is_told_in_a_rule_and_not_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever the loop would say of it is left out, and heard again afterwards."""
    with pytest.raises(BrokenRules, match=r"after commit .*FOREIGN KEY constraint failed"):
        await check(OwesAtCommit)
    assert not [each for each in caplog.records if each.name == "asyncio"]
    assert asyncio.get_running_loop().get_exception_handler() is None


async def test_a_setup_that_cannot_be_committed_is_told() -> None:
    """It ends, and says that it was the setup."""
    with pytest.raises(ValueError, match=r"after setup .*FOREIGN KEY constraint failed"):
        await check(Vouchers, lambda tx: tx.execute("INSERT INTO printed VALUES ('nobody')"))


@pytest.mark.parametrize("own", [False, True], ids=["default", "own"])
async def test_what_else_the_loop_has_to_say_is_heard(
    own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """By whoever hears it when nothing is checked; only lost groups are left out."""
    loop, heard = asyncio.get_running_loop(), []
    loop.set_exception_handler((lambda _, context: heard.append(context)) if own else None)
    try:
        with unheard():
            loop.call_exception_handler({"message": "something else"})
    finally:
        loop.set_exception_handler(None)
    logged = [each.getMessage() for each in caplog.records if each.name == "asyncio"]
    assert (["something else"], []) == (
        ([each["message"] for each in heard], logged) if own else (logged, heard)
    )


class Stocked(Vouchers):
    """Brings its tables, and what is in them."""

    schema = (
        "CREATE TABLE voucher (code TEXT PRIMARY KEY, free INTEGER);\n"
        "CREATE TABLE hold (txn_id, branch_id, code, PRIMARY KEY (txn_id, branch_id));\n"
        "CREATE TABLE used (code TEXT);",
        "INSERT INTO voucher VALUES ('A', 3), ('NO', 0);",
    )


async def test_a_resource_may_bring_its_tables() -> None:
    """Then there is nothing to set up."""
    await check_participant(Stocked, accepted=["A"], refused=["NO"], rivals=())


async def test_a_schema_that_does_not_work_is_raised_as_it_is() -> None:
    """It is no rule that the resource breaks, and SQLite says best what is wrong."""
    with pytest.raises(sqlite3.OperationalError, match="syntax error"):
        await check_participant(
            Vouchers,
            schema=schema_of("vouchers", ["CREATE TABEL voucher (code)"]),
            accepted=["A"],
            refused=["NO"],
            rivals=(),
        )


async def test_a_state_of_ones_own_is_compared() -> None:
    """Where not all of the tables count, what counts is shown as it was and as it is."""
    with pytest.raises(BrokenRules) as caught:
        await check_participant(
            NeverGivesBack,
            schema=SCHEMA,
            setup=stock,
            accepted=["A"],
            refused=["NO"],
            rivals=(),
            state=lambda tx: tx.execute("SELECT sum(free) FROM voucher").fetchone()[0],
        )
    assert "6 and not 7" in caught.value.broken[Rule.ABORT_GIVES_BACK]


async def test_samples_are_needed() -> None:
    """Without any there is nothing to check."""
    with pytest.raises(ValueError, match="at least one"):
        await check_participant(Vouchers, schema=SCHEMA, accepted=[], refused=["NO"], rivals=())


@pytest.mark.parametrize("right", [Vouchers, Batches, Queueing])
async def test_a_right_resource_passes(right: type[Vouchers]) -> None:
    """One message at a time, in batches, and with others waiting."""
    await check(right)


@pytest.mark.parametrize(("wrong", "rule"), WRONG, ids=lambda each: getattr(each, "__name__", ""))
async def test_a_wrong_resource_is_told_which_rule(wrong: type[Vouchers], rule: Rule) -> None:
    """The rule that it breaks is the first that is named, with what to do."""
    with pytest.raises(BrokenRules) as caught:
        await check(wrong)
    assert rule is next(iter(caught.value.broken)), str(caught.value)
    assert f"{rule.name}: " in str(caught.value)
    assert rule.value in str(caught.value)
