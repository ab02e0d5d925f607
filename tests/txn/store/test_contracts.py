"""Every store passes the checks of txn.testing; and what only the one on SQLite can show."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from tests.support.postgres import PostgresServer
from tests.txn.helpers import DEADLINE_S, by_key, commit_row, decide, key, operation, turns
from tests.txn.support import open_postgres, open_sqlite
from txn.decision_log import DecisionLog
from txn.errors import AlreadyOwned, GroupLost, Overloaded, TxnError
from txn.model import BranchRow, Decision, TxnId
from txn.state import BranchState, Outcome, Vote
from txn.store import group_commit
from txn.store.sql_branches import SqlBranchTable
from txn.store.sql_log import SqlDecisionLog
from txn.store.sqlite import SqliteWriter, take_ownership
from txn.testing import (
    MemoryBackend,
    MemoryBranchTable,
    MemoryDecisionLog,
    MemoryStore,
    Tables,
    check_branch_table,
    check_claims,
    check_decision_log,
    check_force,
    check_forgetting,
    check_truncation,
)

T = TypeVar("T")


def abort(txn_id: str) -> Decision:
    """An abort that an inquiry wrote."""
    return Decision(TxnId(txn_id), Outcome.ABORTED, None, (), decided_at_us=1, ended=True)


def commit(txn_id: str) -> Decision:
    """A commit under a key of its own."""
    return commit_row(txn_id, ("ledger", Vote.COMMIT), idempotency_key=txn_id)


def _heard() -> None:
    """For ends that nobody waits for."""


async def test_decision_log_in_memory() -> None:
    """The log in memory keeps the promises of DecisionLog."""
    await check_decision_log(MemoryDecisionLog(MemoryStore()))


async def test_decision_log_on_sqlite(tmp_path: Path) -> None:
    """The log on SQLite keeps the promises of DecisionLog."""
    async with open_sqlite(tmp_path / "s.db") as store:
        await check_decision_log(SqlDecisionLog(store))


async def test_decision_log_on_postgres(postgres_server: PostgresServer) -> None:
    """The log on PostgreSQL keeps the promises of DecisionLog."""
    async with open_postgres(postgres_server) as store:
        await check_decision_log(SqlDecisionLog(store))


async def test_truncation_in_memory() -> None:
    """The log in memory forgets what it may, and knows what it has forgotten."""
    await check_truncation(MemoryDecisionLog(MemoryStore()))


async def test_truncation_on_sqlite(tmp_path: Path) -> None:
    """The log on SQLite forgets what it may, and knows what it has forgotten."""
    async with open_sqlite(tmp_path / "s.db") as store:
        await check_truncation(SqlDecisionLog(store))


async def test_truncation_on_postgres(postgres_server: PostgresServer) -> None:
    """The log on PostgreSQL forgets what it may, and knows what it has forgotten."""
    async with open_postgres(postgres_server) as store:
        await check_truncation(SqlDecisionLog(store))


async def test_claims_in_memory() -> None:
    """The log in memory keeps claims, and closes them once."""
    await check_claims(MemoryDecisionLog(MemoryStore()))


async def test_claims_on_sqlite(tmp_path: Path) -> None:
    """The log on SQLite keeps claims, and closes them once."""
    async with open_sqlite(tmp_path / "s.db") as store:
        await check_claims(SqlDecisionLog(store))


async def test_claims_on_postgres(postgres_server: PostgresServer) -> None:
    """The log on PostgreSQL closes claims as it promises."""
    async with open_postgres(postgres_server) as store:
        await check_claims(SqlDecisionLog(store))


async def test_force_in_memory() -> None:
    """The log in memory lets operators force what may be, and keeps a record of it."""
    await check_force(MemoryDecisionLog(MemoryStore()))


async def test_force_on_sqlite(tmp_path: Path) -> None:
    """The log on SQLite lets operators force what may be, and keeps a record of it."""
    async with open_sqlite(tmp_path / "s.db") as store:
        await check_force(SqlDecisionLog(store))


async def test_force_on_postgres(postgres_server: PostgresServer) -> None:
    """The log on PostgreSQL lets operators force what may be, and keeps a record of it."""
    async with open_postgres(postgres_server) as store:
        await check_force(SqlDecisionLog(store))


async def test_branch_table_in_memory() -> None:
    """The table in memory keeps the promises of BranchTable."""
    await check_branch_table(MemoryStore(), MemoryBranchTable())


async def test_branch_table_on_sqlite(tmp_path: Path) -> None:
    """The table on SQLite keeps the promises of BranchTable."""
    async with open_sqlite(tmp_path / "s.db") as store:
        await check_branch_table(store, SqlBranchTable())


async def test_branch_table_on_postgres(postgres_server: PostgresServer) -> None:
    """The table on PostgreSQL keeps the promises of BranchTable."""
    async with open_postgres(postgres_server) as store:
        await check_branch_table(store, SqlBranchTable())


async def test_forgetting_in_memory() -> None:
    """The table in memory forgets what it may, and remembers up to where."""
    await check_forgetting(MemoryStore(), MemoryBranchTable())


async def test_forgetting_on_sqlite(tmp_path: Path) -> None:
    """The table on SQLite forgets what it may, and remembers up to where."""
    async with open_sqlite(tmp_path / "s.db") as store:
        await check_forgetting(store, SqlBranchTable())


async def test_forgetting_on_postgres(postgres_server: PostgresServer) -> None:
    """The table on PostgreSQL forgets what it may, and remembers up to where."""
    async with open_postgres(postgres_server) as store:
        await check_forgetting(store, SqlBranchTable())


async def test_decisions_survive_a_restart(tmp_path: Path) -> None:
    """Votes, reasons, keys and ends are all read back as they were written."""
    rows = [
        commit_row("t1", ("order", Vote.COMMIT), ("audit", Vote.READ_ONLY)),
        replace(
            commit("t2"), outcome=Outcome.ABORTED, reason="NO", refused_branch_id="b", ended=True
        ),
        abort("t3"),
    ]
    async with open_sqlite(tmp_path / "s.db") as store:
        for row in rows:
            await decide(SqlDecisionLog(store), row)
    async with open_sqlite(tmp_path / "s.db") as store:
        assert rows == list(await SqlDecisionLog(store).list_decisions(after="", limit=9))


async def test_pages_of_decisions(tmp_path: Path) -> None:
    """Pages follow each other without gap or repetition, also when some have just ended."""
    async with open_sqlite(tmp_path / "s.db") as store:
        log = SqlDecisionLog(store)
        names = [f"t{number}" for number in range(7)]
        for name in names:
            await decide(log, commit(name))
        log.end_all([TxnId("t1")], _heard)
        log.end_all([TxnId("t5")], _heard)
        seen: list[str] = []
        while page := await log.list_decisions(
            after=seen[-1] if seen else "", limit=2, unfinished_only=True
        ):
            assert len(page) <= 2
            seen += [row.txn_id for row in page]
    assert ["t0", "t2", "t3", "t4", "t6"] == seen


async def test_an_end_shows_before_it_is_forced(tmp_path: Path) -> None:
    """Readers of one process see it at once, those of another once it is forced."""
    path = tmp_path / "s.db"
    async with open_sqlite(path) as store, open_sqlite(path) as other:
        log, outside = SqlDecisionLog(store), SqlDecisionLog(other)
        await decide(log, commit("t1"))
        log.end_all([TxnId("t1")], _heard)
        ended = replace(commit("t1"), ended=True)
        assert ended == await log.by_txn_id(TxnId("t1"))
        assert ended == await by_key(log, "t1")
        assert [] == list(await log.list_decisions(after="", limit=9, unfinished_only=True))
        assert commit("t1") == await outside.by_txn_id(TxnId("t1"))
        await decide(log, abort("t2"))
        assert ended == await outside.by_txn_id(TxnId("t1"))
        assert ended == await log.by_txn_id(TxnId("t1"))


async def test_an_end_that_was_not_queued_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not on its way to the disk is not shown as if it were."""
    async with open_sqlite(tmp_path / "s.db") as store:
        log = SqlDecisionLog(store)
        await decide(log, commit("t1"))
        monkeypatch.setattr(group_commit, "QUEUE_SIZE_MAX", 0)
        with pytest.raises(Overloaded):
            log.end_all([TxnId("t1")], _heard)
        monkeypatch.undo()
        assert commit("t1") == await log.by_txn_id(TxnId("t1"))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("step", ["begin", "run"])
async def test_an_end_whose_group_is_lost_rides_with_the_next(
    kind: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the storage undid, or would not begin, is written without waiting for a restart."""
    async with open_sqlite(tmp_path / "s.db") as store:
        backend: type[MemoryBackend | SqliteWriter] = SqliteWriter
        log: DecisionLog = SqlDecisionLog(store)
        if kind == "memory":
            backend, log = MemoryBackend, MemoryDecisionLog(MemoryStore())
        await decide(log, commit("t1"))
        durable = asyncio.Event()
        log.end_all([TxnId("t1")], durable.set)
        with monkeypatch.context() as failing:
            failing.setattr(backend, step, _lost)
            failing.setattr(SqliteWriter, "begin_now", lambda self: None)
            with suppress(GroupLost):
                assert [GroupLost] == [type(row) for row in await log.decide_all([abort("t2")])]
        assert not durable.is_set()
        await decide(log, abort("t3"))
        await asyncio.wait_for(durable.wait(), DEADLINE_S)
        assert replace(commit("t1"), ended=True) == await log.by_txn_id(TxnId("t1"))


async def test_an_end_that_cannot_be_written_is_not_said_to_be_durable(tmp_path: Path) -> None:
    """The commit counts as unfinished until recovery ends it; the log goes on."""
    heard = []
    async with open_sqlite(tmp_path / "s.db") as store:
        log = SqlDecisionLog(store)
        await decide(log, commit("t1"))
        await store.write(
            lambda tx: tx.execute(
                "CREATE TRIGGER no BEFORE UPDATE ON decision BEGIN SELECT RAISE(ABORT, ''); END"
            )
        )
        log.end_all([TxnId("t1")], lambda: heard.append("durable"))
        await decide(log, abort("t2"))
        await decide(log, abort("t3"))
        unfinished = await log.list_decisions(after="", limit=9, unfinished_only=True)
    assert ([], [commit("t1")]) == (heard, unfinished)


async def test_an_end_of_nothing_is_not_said_to_be_durable() -> None:
    """In memory a defect of whoever ends what was never decided shows, and hurts nobody else."""
    heard = []
    log = MemoryDecisionLog(MemoryStore())
    log.end_all([TxnId("t9")], lambda: heard.append("durable"))
    assert [abort("t1"), abort("t2")] == await decide(log, abort("t1"), abort("t2"))
    assert [] == heard


async def test_a_row_that_the_storage_swallows_is_no_outcome(tmp_path: Path) -> None:
    """Neither written nor in the way of another: that is an error, for nobody knows an outcome."""
    async with open_sqlite(tmp_path / "s.db") as store:
        log = SqlDecisionLog(store)
        await store.write(
            lambda tx: tx.execute(
                "CREATE TRIGGER swallow BEFORE INSERT ON decision BEGIN SELECT RAISE(IGNORE); END"
            )
        )
        answers = await log.decide_all([commit("t1"), abort("t2")])
    assert [TxnError, TxnError] == [type(each) for each in answers]


async def test_a_table_in_memory_holds_a_branch_once() -> None:
    """As on SQLite, where the key is unique: another insertion is a defect and changes nothing."""
    store, table = MemoryStore(), MemoryBranchTable()
    row = BranchRow(key(), BranchState.PREPARED, "coordinator", operation(), 1)
    await store.write(lambda tx: table.insert_all(tx, [row]))
    with pytest.raises(KeyError):
        await store.write(
            lambda tx: table.insert_all(tx, [replace(row, state=BranchState.COMMITTED)])
        )
    assert {row.key: row} == await store.read(lambda tx: table.get_all(tx, [row.key]))


class Forgiving(MemoryStore):
    """A store that keeps to itself what work raises."""

    async def write(self, work: Callable[[Tables], T], *, essential: bool = False) -> T:
        """See Store.write."""
        with suppress(LookupError):
            return await super().write(work, essential=essential)
        return None  # type: ignore[return-value]


async def test_a_store_that_hides_errors_does_not_pass() -> None:
    """Who is not told that his work failed takes it for done."""
    with pytest.raises(AssertionError, match="must be raised"):
        await check_branch_table(Forgiving(), MemoryBranchTable())


class Failing(MemoryBackend):
    """Memory whose commits fail."""

    def commit(self, tx: Tables) -> None:
        """See Backend."""
        raise OSError("EIO")


async def test_nobody_hears_of_success_after_a_commit_in_memory_failed() -> None:
    """A simulator that plants one is told; whoever waits is left in doubt, as by a process."""
    backend = Failing()
    store = MemoryStore(backend)
    loop, heard = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: heard.append(context["exception"]))
    try:
        call = asyncio.ensure_future(store.write(lambda tx: tx.setdefault("row", {})))
        await turns()
    finally:
        loop.set_exception_handler(None)
    assert not call.done()
    call.cancel()
    assert [AssertionError] == [type(error) for error in heard]
    assert {} == backend.durable


def _lost(self: object, *arguments: object) -> NoReturn:
    raise GroupLost("undone")


def test_a_log_has_one_owner(tmp_path: Path) -> None:
    """A second coordinator over one log is refused until the first lets go."""
    path = tmp_path / "data" / "c.db"
    owner = take_ownership(path)
    with pytest.raises(AlreadyOwned):
        take_ownership(path)
    os.close(owner)
    os.close(take_ownership(path))


def test_coordinators_that_share_a_log_keep_out_who_wants_it_alone(tmp_path: Path) -> None:
    """And the other way round: one from before there were epochs does not see theirs."""
    path = tmp_path / "c.db"
    first, second = take_ownership(path, shared=True), take_ownership(path, shared=True)
    os.close(first)
    with pytest.raises(AlreadyOwned):
        take_ownership(path)
    os.close(second)
    alone = take_ownership(path)
    with pytest.raises(AlreadyOwned):
        take_ownership(path, shared=True)
    os.close(alone)
