"""For tests, ours and users': a store in memory, and checks that any implementation must pass.

The memory store runs the shipped group commit; its `drain()` is called by the event loop
instead of a thread, so that a test, or a simulator, decides when things happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from txn.branch_table import BranchTable
from txn.decision_log import DecisionLog
from txn.model import (
    BranchId,
    BranchKey,
    BranchRow,
    Decision,
    LoggedBranch,
    Operation,
    RequestKey,
    TxnId,
)
from txn.state import BranchState, Outcome, Vote
from txn.store.group_commit import GroupCommit, Report, Store, write_through

T = TypeVar("T")
Tx = TypeVar("Tx")

Tables = dict[str, dict[Any, Any]]


class MemoryBackend:
    """A Backend over dictionaries. What is committed survives in `durable`."""

    def __init__(self, durable: Tables | None = None) -> None:
        self.durable: Tables = {} if durable is None else durable
        self.forces = 0

    def has_room(self) -> bool:
        """Memory is never full."""
        return True

    def begin(self) -> Tables:
        """A copy to work on."""
        return _copied(self.durable)

    def run(self, tx: Tables, work: Callable[[Tables], T]) -> T:
        """Runs `work`; undoes its changes when it raises."""
        before = _copied(tx)
        try:
            return work(tx)
        except BaseException:
            tx.clear()
            tx.update(before)
            raise

    def commit(self, tx: Tables) -> None:
        """Makes the copy the truth; counts a force when anything changed."""
        if tx != self.durable:
            self.forces += 1
            self.durable.clear()
            self.durable.update(tx)

    def rollback(self, tx: Tables) -> None:
        """Forgets the copy."""

    def close(self) -> None:
        """Nothing to let go of."""


def _copied(tables: Tables) -> Tables:
    return {name: dict(rows) for name, rows in tables.items()}


def _fail(error: BaseException) -> NoReturn:
    raise AssertionError("a commit in memory failed") from error


class MemoryStore:
    """A Store in memory, drained by the running event loop."""

    def __init__(self, backend: MemoryBackend | None = None) -> None:
        self.backend = backend or MemoryBackend()
        self._group = GroupCommit(self.backend, on_commit_failure=_fail, wake=self._schedule)

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_soon(self._drain)

    def _drain(self) -> None:
        for report, result in self._group.drain():
            report(result)

    async def write(self, work: Callable[[Tables], T], *, essential: bool = False) -> T:
        """See Store.write."""
        return await write_through(self._group, work, essential=essential)

    def write_lazily(self, work: Callable[[Tables], object], report: Report) -> None:
        """See Store.write_lazily."""
        self._group.submit(work, report, lazy=True)

    async def read(self, work: Callable[[Tables], T]) -> T:
        """See Store.read."""
        await asyncio.sleep(0)
        return work(_copied(self.backend.durable))


class MemoryDecisionLog:
    """DecisionLog over a memory store."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def identity(self, proposed: str) -> str:
        """See DecisionLog.identity."""

        def first(tx: Tables) -> str:
            return str(tx.setdefault("log_identity", {}).setdefault(1, proposed))

        return await self._store.write(first)

    async def decide(self, decision: Decision) -> Decision:
        """See DecisionLog.decide."""

        def insert(tx: Tables) -> Decision:
            rows = tx.setdefault("decision", {})
            for row in (rows.get(decision.txn_id), _with_key(rows, decision.request)):
                if row is not None:
                    return row
            rows[decision.txn_id] = decision
            return decision

        return await self._store.write(insert)

    async def end(self, txn_id: TxnId) -> None:
        """See DecisionLog.end."""

        def mark(tx: Tables) -> None:
            rows = tx["decision"]
            rows[txn_id] = replace(rows[txn_id], ended=True)

        self._store.write_lazily(mark, lambda _result: None)

    async def by_txn_id(self, txn_id: TxnId) -> Decision | None:
        """See DecisionLog.by_txn_id."""
        return await self._store.read(lambda tx: tx.get("decision", {}).get(txn_id))

    async def by_key(self, caller: str, idempotency_key: str) -> Decision | None:
        """See DecisionLog.by_key."""
        request = RequestKey(caller, idempotency_key, b"")
        return await self._store.read(lambda tx: _with_key(tx.get("decision", {}), request))

    async def list_decisions(
        self, *, after: str, limit: int, unfinished_only: bool = False
    ) -> Sequence[Decision]:
        """See DecisionLog.list_decisions."""
        rows = await self._store.read(lambda tx: tx.get("decision", {}))
        return [
            rows[txn_id]
            for txn_id in sorted(rows)
            if txn_id > after and not (unfinished_only and rows[txn_id].ended)
        ][:limit]


def _with_key(rows: dict[Any, Decision], request: RequestKey | None) -> Decision | None:
    if request is None:
        return None
    name = (request.caller, request.idempotency_key)
    for row in rows.values():
        if row.request is not None and (row.request.caller, row.request.idempotency_key) == name:
            return row
    return None


class MemoryBranchTable:
    """BranchTable over the tables of a memory store."""

    def get(self, tx: Tables, key: BranchKey) -> BranchRow | None:
        """See BranchTable.get."""
        return tx.get("branch", {}).get(key)

    def insert(self, tx: Tables, row: BranchRow) -> None:
        """See BranchTable.insert."""
        tx.setdefault("branch", {})[row.key] = row

    def set_state(self, tx: Tables, key: BranchKey, state: BranchState) -> None:
        """See BranchTable.set_state."""
        tx["branch"][key] = replace(tx["branch"][key], state=state)

    def list_rows(
        self, tx: Tables, *, after: BranchKey | None, limit: int, state: BranchState | None
    ) -> Sequence[BranchRow]:
        """See BranchTable.list_rows."""
        rows = tx.get("branch", {})
        return [
            rows[key]
            for key in sorted(rows)
            if (after is None or key > after) and state in (None, rows[key].state)
        ][:limit]


async def check_decision_log(log: DecisionLog) -> None:
    """Checks that an empty `log` keeps the promises of DecisionLog; raises AssertionError."""
    commit = Decision(
        TxnId("t1"),
        Outcome.COMMITTED,
        RequestKey("caller", "key", b"body"),
        (LoggedBranch(BranchId("b"), "ledger", Vote.COMMIT),),
        decided_at_us=1,
    )
    same_txn = replace(commit, outcome=Outcome.ABORTED, request=None, ended=True)
    same_key = replace(commit, txn_id=TxnId("t2"), outcome=Outcome.ABORTED, ended=True)
    other_caller = replace(same_key, request=RequestKey("other", "key", b"body"))
    assert await log.identity("first") == "first", "a new log takes the name proposed"
    assert await log.identity("second") == "first", "a log keeps its name"
    assert await log.decide(commit) == commit, "the first outcome stands"
    assert await log.decide(same_txn) == commit, "a second outcome of a txn_id loses"
    assert await log.decide(same_key) == commit, "a second outcome of a key loses"
    assert await log.by_txn_id(TxnId("t2")) is None, "a loser leaves no row"
    assert await log.decide(other_caller) == other_caller, "callers have keys of their own"
    inquiry = Decision(TxnId("t3"), Outcome.ABORTED, None, (), decided_at_us=2, ended=True)
    assert await log.decide(inquiry) == inquiry, "an abort without a key stands"
    assert await log.by_key("caller", "key") == commit, "a row is found by its key"
    assert await log.by_key("caller", "unseen") is None, "an unseen key has no row"
    assert await log.by_txn_id(TxnId("t1")) == commit, "a row is found by its txn_id"
    assert list(await log.list_decisions(after="", limit=9)) == [commit, other_caller, inquiry]
    assert list(await log.list_decisions(after="t1", limit=1)) == [other_caller]
    assert list(await log.list_decisions(after="", limit=9, unfinished_only=True)) == [commit]
    await log.end(TxnId("t1"))
    await log.decide(replace(inquiry, txn_id=TxnId("t4")))
    assert await log.by_txn_id(TxnId("t1")) == replace(commit, ended=True), "an end is kept"
    assert list(await log.list_decisions(after="", limit=9, unfinished_only=True)) == []


async def check_branch_table(store: Store[Tx], table: BranchTable[Tx]) -> None:
    """Checks that an empty `table` keeps the promises of BranchTable; raises AssertionError."""
    operation = Operation("type.example/Op", b"\x00\xff")
    first = BranchRow(
        BranchKey(TxnId("t1"), BranchId("a")), BranchState.PREPARED, "coordinator", operation, 1
    )
    second = replace(first, key=BranchKey(TxnId("t1"), BranchId("b")))
    empty = BranchRow(BranchKey(TxnId("t2"), BranchId("a")), BranchState.ABORTED, "", None, 2)

    def insert(tx: Tx) -> None:
        for row in (empty, second, first):
            table.insert(tx, row)

    def insert_and_fail(tx: Tx) -> None:
        table.insert(tx, replace(first, key=BranchKey(TxnId("t3"), BranchId("a"))))
        raise LookupError("undone")

    await store.write(insert)
    assert await store.read(lambda tx: table.get(tx, first.key)) == first
    assert await store.read(lambda tx: table.get(tx, empty.key)) == empty
    try:
        await store.write(insert_and_fail)
    except LookupError:
        pass
    else:
        raise AssertionError("what the work raises must be raised")
    await store.write(lambda tx: table.set_state(tx, second.key, BranchState.COMMITTED))
    committed = replace(second, state=BranchState.COMMITTED)

    def page(after: BranchKey | None, state: BranchState | None) -> Callable[[Tx], list[BranchRow]]:
        return lambda tx: list(table.list_rows(tx, after=after, limit=2, state=state))

    assert await store.read(page(None, None)) == [first, committed]
    assert await store.read(page(committed.key, None)) == [empty], "work that raised left a row"
    assert await store.read(page(None, BranchState.PREPARED)) == [first]
