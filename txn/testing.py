"""For tests, ours and users': a store in memory, and checks that any implementation must pass.

The memory store runs the shipped group commit; its `drain()` is called by the event loop
instead of a thread, so that a test, or a simulator, decides when things happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn, TypeVar

from txn.audit import AuditRecord, Forced, Signature, may_take_the_place, standing
from txn.branch_table import BranchTable
from txn.decision_log import (
    DecisionLog,
    Epochs,
    Standing,
    Tenure,
    Truncated,
    lowest_horizon,
)
from txn.errors import Fenced, TooOld, TxnError
from txn.model import (
    NO_EPOCH,
    BranchId,
    BranchKey,
    BranchRow,
    Decision,
    Epoch,
    LoggedBranch,
    Operation,
    RequestKey,
    TxnId,
    epoch_of,
    log_id_of,
)
from txn.participant_check import BrokenRules as BrokenRules
from txn.participant_check import Rule as Rule
from txn.participant_check import check_participant as check_participant
from txn.state import BranchState, Outcome, Vote
from txn.store.group_commit import (
    GroupCommit,
    Report,
    Store,
    ride_along,
    write_all_through,
    write_through,
)
from txn.value import value

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
Tx = TypeVar("Tx")

DURABLE_TIMEOUT_S = 10.0

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

    def __init__(
        self,
        backend: MemoryBackend | None = None,
        *,
        on_commit_failure: Callable[[BaseException], NoReturn] = _fail,
    ) -> None:
        """Several stores may share a backend, as processes do a database."""
        self.backend = backend or MemoryBackend()
        self._group = GroupCommit(
            self.backend, on_commit_failure=on_commit_failure, wake=self._schedule
        )

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_soon(self._drain)

    def _drain(self) -> None:
        for report, result in self._group.drain():
            report(result)

    async def write(self, work: Callable[[Tables], T], *, essential: bool = False) -> T:
        """See Store.write."""
        return await write_through(self._group, work, essential=essential)

    async def write_all(
        self,
        apply: Callable[[Tables, Sequence[In]], Sequence[Out]],
        inputs: Sequence[In],
        *,
        essential: bool = False,
        alone: bool = False,
    ) -> list[Out | Exception]:
        """See Store.write_all."""
        return await write_all_through(self._group, apply, inputs, essential=essential, alone=alone)

    def write_lazily(
        self, work: Callable[[Tables], object], report: Report, *, essential: bool = False
    ) -> None:
        """See Store.write_lazily."""
        self._group.submit(work, report, lazy=True, essential=essential)

    def hold(self, guard: Callable[[Tables], None]) -> None:
        """See Store.hold."""
        self._group.guard = guard

    async def read(self, work: Callable[[Tables], T]) -> T:
        """See Store.read."""
        await asyncio.sleep(0)
        return work(_copied(self.backend.durable))

    async def look_up(self, work: Callable[[Tables], T]) -> T:
        """See Store.look_up."""
        return work(_copied(self.backend.durable))


class MemoryDecisionLog:
    """DecisionLog over a memory store, or any whose transactions are tables."""

    def __init__(self, store: Store[Tables]) -> None:
        self._store = store
        self._epoch = NO_EPOCH

    async def identity(self, proposed: str) -> str:
        """See DecisionLog.identity."""

        def first(tx: Tables) -> str:
            return str(tx.setdefault("log_identity", {}).setdefault(1, proposed))

        return await self._store.write(first)

    async def begin_epoch(self, instance: str) -> Tenure:
        """See DecisionLog.begin_epoch."""
        tenure = await self._store.write(lambda tx: _begin_epoch(tx, instance), essential=True)
        self._epoch = tenure.epoch
        self._store.hold(self._check_epoch)
        return tenure

    def _check_epoch(self, tx: Tables) -> None:
        # One that is over and has left nothing to do is forgotten.
        row = tx["epoch"].get(self._epoch)
        if row is None or row.successor is not None:
            raise Fenced(f"epoch {self._epoch} is over")

    async def take_over(self, epoch: Epoch) -> frozenset[Epoch]:
        """See DecisionLog.take_over."""
        return await self._store.write(
            lambda tx: _take_over(tx, [epoch], self._epoch), essential=True
        )

    async def epochs(self) -> Epochs:
        """See DecisionLog.epochs."""
        return await self._store.read(_epochs)

    async def announce(self, horizon: TxnId) -> None:
        """See DecisionLog.announce."""

        def announce(tx: Tables) -> None:
            tx["epoch"][self._epoch] = replace(tx["epoch"][self._epoch], horizon=horizon)

        await self._store.write(announce, essential=True)

    async def newest_txn_id(self) -> TxnId | None:
        """See DecisionLog.newest_txn_id."""
        return await self._store.read(_newest_txn_id)

    async def decide_all(self, decisions: Sequence[Decision]) -> Sequence[Decision | TxnError]:
        """See DecisionLog.decide_all."""
        rows = await self._store.write_all(_insert_decisions, decisions)
        return [
            row if isinstance(row, Decision | TxnError) else TxnError(repr(row)) for row in rows
        ]

    def end_all(self, txn_ids: Sequence[TxnId], durable: Callable[[], None]) -> None:
        """See DecisionLog.end_all."""

        def mark(tx: Tables) -> None:
            rows = tx["decision"]
            for txn_id in txn_ids:
                rows[txn_id] = replace(rows[txn_id], ended=True)

        ride_along(self._store, mark, durable)

    async def close_all(self, claims: Sequence[Decision]) -> Sequence[Decision | TxnError]:
        """See DecisionLog.close_all."""
        rows = await self._store.write_all(_close_claims, claims, essential=True)
        return [
            row if isinstance(row, Decision | TxnError) else TxnError(repr(row)) for row in rows
        ]

    def close_lazily(
        self, claims: Sequence[Decision], durable: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        """See DecisionLog.close_lazily."""
        ride_along(self._store, lambda tx: _close_claims(tx, claims), durable, lost)

    async def ended(self, txn_ids: Sequence[TxnId]) -> frozenset[TxnId]:
        """See DecisionLog.ended."""

        def among(tx: Tables) -> frozenset[TxnId]:
            rows, gone = tx.get("decision", {}), _truncated(tx)
            return frozenset(
                txn_id
                for txn_id in txn_ids
                if (_has_ended(rows[txn_id]) if txn_id in rows else txn_id <= gone)
            )

        return await self._store.read(among)

    async def truncate(self, *, after: str, limit: int, before_us: int) -> Truncated:
        """See DecisionLog.truncate."""

        def delete(tx: Tables) -> Truncated:
            rows = tx.get("decision", {})
            page = [rows[txn_id] for txn_id in sorted(rows) if txn_id > after][:limit]
            old = [row for row in page if row.decided_at_us < before_us]
            going = [row for row in old if row.ended]
            for row in going:
                del rows[row.txn_id]
            keyed = [row.txn_id for row in going if row.request is not None]
            if keyed:
                tx.setdefault("truncation", {})[1] = max(_truncated(tx), *keyed)
            goes_on = old and len(page) == limit
            return Truncated(len(going), page[-1].txn_id if goes_on else None)

        return await self._store.write(delete)

    async def by_txn_id(self, txn_id: TxnId) -> Decision | None:
        """See DecisionLog.by_txn_id."""
        return await self._store.read(lambda tx: tx.get("decision", {}).get(txn_id))

    async def by_txn_ids(self, txn_ids: Sequence[TxnId]) -> dict[TxnId, Decision]:
        """See DecisionLog.by_txn_ids."""
        rows = await self._store.read(lambda tx: tx.get("decision", {}))
        return {txn_id: rows[txn_id] for txn_id in txn_ids if txn_id in rows}

    async def by_keys(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Decision]:
        """See DecisionLog.by_keys."""
        rows = await self._store.read(lambda tx: tx.get("decision", {}))
        found = ((name, _with_key(rows, RequestKey(*name, b""))) for name in names)
        return {name: row for name, row in found if row is not None}

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

    async def force(self, row: Decision, by: Signature, *, over: Outcome | None) -> Forced:
        """See DecisionLog.force."""
        return await self._store.write(lambda tx: _force(tx, row, by, over))

    async def list_audit(
        self, *, after: int, limit: int, txn_id: TxnId | None = None
    ) -> Sequence[AuditRecord]:
        """See DecisionLog.list_audit."""
        records = await self._store.read(lambda tx: tx.get("audit", {}))
        return [
            records[number]
            for number in sorted(records)
            if number > after and txn_id in (None, records[number].txn_id)
        ][:limit]


@value
class _EpochRow:
    """An epoch, and under which one its work goes on once it is over."""

    instance: str
    horizon: TxnId | None
    successor: Epoch | None = None


def _begin_epoch(tx: Tables, instance: str) -> Tenure:
    rows = tx.setdefault("epoch", {})
    _keep_epochs(
        tx, {epoch_of(txn_id) for txn_id, row in tx.get("decision", {}).items() if not row.ended}
    )
    # What was begun before there were epochs goes on under the first.
    rows.setdefault(NO_EPOCH, _EpochRow(instance, None))
    epoch = Epoch(max(rows) + 1)
    rows[epoch] = _EpochRow(instance, _newest_txn_id(tx))
    before = [each for each, row in rows.items() if each != epoch and _stands(row, instance)]
    return Tenure(epoch, _take_over(tx, before, epoch))


def _stands(row: _EpochRow, instance: str) -> bool:
    return row.successor is None and row.instance == instance


def _keep_epochs(tx: Tables, unfinished: set[Epoch]) -> None:
    """Forgets those that are over and have left nothing to do, but for the newest."""
    rows = tx["epoch"]
    newest = max(rows, default=NO_EPOCH)
    for epoch in [
        each
        for each, row in rows.items()
        if row.successor is not None and each not in unfinished and each != newest
    ]:
        del rows[epoch]


def _take_over(tx: Tables, over: Sequence[Epoch], successor: Epoch) -> frozenset[Epoch]:
    rows = tx["epoch"]
    ending = {each for each in over if each in rows and rows[each].successor is None}
    inherited = ending | {each for each, row in rows.items() if row.successor in ending}
    lowest = lowest_horizon(rows[each].horizon for each in (*ending, successor))
    rows[successor] = replace(rows[successor], horizon=lowest)
    for each in inherited:
        rows[each] = replace(rows[each], successor=successor)
    return frozenset(inherited)


def _epochs(tx: Tables) -> Epochs:
    rows = tx.get("epoch", {})
    standing = tuple(
        Standing(epoch, row.instance, row.horizon)
        for epoch, row in sorted(rows.items())
        if row.successor is None
    )
    return Epochs(standing, max(rows, default=NO_EPOCH), _newest_txn_id(tx))


def _truncated(tx: Tables) -> str:
    """The greatest txn_id of a row with a key that was truncated."""
    return str(tx.get("truncation", {}).get(1, ""))


def _newest_txn_id(tx: Tables) -> TxnId | None:
    keyed = [row.txn_id for row in tx.get("decision", {}).values() if row.request is not None]
    newest = max([_truncated(tx), *keyed])
    return TxnId(newest) if newest else None


def _has_ended(row: Decision) -> bool:
    return row.ended and row.outcome is Outcome.COMMITTED


def _insert_decisions(tx: Tables, decisions: Sequence[Decision]) -> list[Decision | TooOld]:
    rows = tx.setdefault("decision", {})
    stand: list[Decision | TooOld] = []
    for decision in decisions:
        row = rows.get(decision.txn_id) or _with_key(rows, decision.request)
        if row is None and decision.request is None and decision.txn_id <= _truncated(tx):
            stand.append(TooOld("the log has been truncated beyond it"))
            continue
        if row is None:
            row = rows[decision.txn_id] = decision
        stand.append(row)
    return stand


def _close_claims(tx: Tables, claims: Sequence[Decision]) -> list[Decision]:
    rows: dict[Any, Decision] = tx["decision"]
    for claim in claims:
        row = rows[claim.txn_id]
        if row.outcome is Outcome.PENDING and row.request == claim.request:
            rows[claim.txn_id] = claim
    return [rows[claim.txn_id] for claim in claims]


def _force(tx: Tables, row: Decision, by: Signature, over: Outcome | None) -> Forced:
    rows, records = tx.setdefault("decision", {}), tx.setdefault("audit", {})
    stood = rows.get(row.txn_id) or _with_key(rows, row.request)
    if not may_take_the_place(row, stood, over):
        return Forced(stood, None)
    if stood is None and row.request is None and row.txn_id <= _truncated(tx):
        raise TooOld("the log has been truncated beyond it")
    # Of what has an outcome nothing but the end is new.
    new = row if stood is None or stood.outcome is Outcome.PENDING else replace(stood, ended=True)
    rows[row.txn_id] = new
    record = AuditRecord(len(records) + 1, row.txn_id, standing(stood), standing(new), by)
    records[record.number] = record
    return Forced(new, record)


def _with_key(rows: dict[Any, Decision], request: RequestKey | None) -> Decision | None:
    if request is None:
        return None
    name = (request.caller, request.idempotency_key)
    for row in rows.values():
        if row.request is not None and (row.request.caller, row.request.idempotency_key) == name:
            return row
    return None


class MemoryBranchTable:
    """BranchTable in a memory store."""

    def get_all(self, tx: Tables, keys: Sequence[BranchKey]) -> Mapping[BranchKey, BranchRow]:
        """See BranchTable.get_all."""
        rows = tx.get("branch", {})
        return {key: rows[key] for key in keys if key in rows}

    def insert_all(self, tx: Tables, rows: Sequence[BranchRow]) -> None:
        """See BranchTable.insert_all."""
        table = tx.setdefault("branch", {})
        for row in rows:
            if row.key in table:
                raise KeyError(f"{row.key} is there already")
            table[row.key] = row

    def set_state_all(self, tx: Tables, keys: Sequence[BranchKey], state: BranchState) -> None:
        """See BranchTable.set_state_all."""
        rows = tx["branch"]
        for key in keys:
            rows[key] = replace(rows[key], state=state)

    def prepare_horizon(self, tx: Tables, log_id: str) -> str:
        """See BranchTable.prepare_horizon."""
        return str(tx.get("prepare_horizon", {}).get(log_id, ""))

    def forget(self, tx: Tables, keys: Sequence[BranchKey], log_id: str, horizon: str) -> int:
        """See BranchTable.forget."""
        horizons = tx.setdefault("prepare_horizon", {})
        horizons[log_id] = max(horizons.get(log_id, ""), horizon)
        rows = tx.setdefault("branch", {})
        told = {key for key in keys if key in rows and rows[key].state is BranchState.COMMITTED}
        aborted = {key for key, row in rows.items() if row.state is BranchState.ABORTED}
        mine = {key for key in aborted if log_id_of(key.txn_id) == log_id}
        going = [key for key in told | mine if key.txn_id < horizon]
        for key in going:
            del rows[key]
        return len(going)

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
    inquiry = Decision(TxnId("t3"), Outcome.ABORTED, None, (), decided_at_us=2, ended=True)
    assert await log.identity("first") == "first", "a new log takes the name proposed"
    assert await log.identity("second") == "first", "a log keeps its name"
    assert await log.newest_txn_id() is None, "an empty log has no newest row"
    assert await _decide(log, commit) == [commit], "the first outcome stands"
    assert await _decide(log, same_txn) == [commit], "a second outcome of a txn_id loses"
    assert await _decide(log, same_key) == [commit], "a second outcome of a key loses"
    assert await log.by_txn_id(TxnId("t2")) is None, "a loser leaves no row"
    assert await _decide(log, other_caller, same_key, inquiry) == [
        other_caller,
        other_caller,
        inquiry,
    ], "callers have keys of their own, a txn_id goes first, an abort without a key stands"
    rival = replace(inquiry, reason="RIVAL")
    assert await _decide(log, rival, rival) == [inquiry, inquiry], "rows are write-once"
    assert await log.newest_txn_id() == "t2", "the newest row is that of the greatest id of a key"
    found = await log.by_keys([("caller", "key"), ("caller", "unseen"), ("other", "key")])
    assert found == {("caller", "key"): commit, ("other", "key"): other_caller}
    assert await log.by_txn_id(TxnId("t1")) == commit, "a row is found by its txn_id"
    assert list(await log.list_decisions(after="", limit=9)) == [commit, other_caller, inquiry]
    assert list(await log.list_decisions(after="t1", limit=1)) == [other_caller]
    assert list(await log.list_decisions(after="", limit=9, unfinished_only=True)) == [commit]
    durable = asyncio.Event()
    log.end_all([TxnId("t1")], durable.set)
    await _decide(log, replace(inquiry, txn_id=TxnId("t4")))
    async with asyncio.timeout(DURABLE_TIMEOUT_S):
        await durable.wait()
    assert await log.by_txn_id(TxnId("t1")) == replace(commit, ended=True), "an end is kept"
    assert list(await log.list_decisions(after="", limit=9, unfinished_only=True)) == []


async def check_claims(log: DecisionLog) -> None:
    """Checks what becomes of claims in an empty `log`; raises AssertionError."""
    claim = Decision(
        TxnId("t1"),
        Outcome.PENDING,
        RequestKey("caller", "key", b"body"),
        (LoggedBranch(BranchId("b"), "ledger", None),),
        decided_at_us=1,
    )
    voted = (LoggedBranch(BranchId("b"), "ledger", Vote.COMMIT),)
    commit = replace(claim, outcome=Outcome.COMMITTED, branches=voted, decided_at_us=2, ended=True)
    refused = replace(
        claim,
        txn_id=TxnId("t2"),
        outcome=Outcome.ABORTED,
        request=RequestKey("caller", "key2", b"body"),
        reason="NO",
        refused_branch_id="b",
        ended=True,
    )
    other = replace(refused, outcome=Outcome.PENDING, reason="", refused_branch_id="", ended=False)
    inquiry = Decision(TxnId("t1"), Outcome.ABORTED, None, (), decided_at_us=3, ended=True)
    rival = replace(claim, txn_id=TxnId("t3"))
    assert await _decide(log, claim, other) == [claim, other]
    assert await _decide(log, claim) == [claim], "a claim that is made again stands"
    assert await _decide(log, inquiry) == [claim], "an inquiry finds the claim, and leaves it"
    assert await _decide(log, rival) == [claim], "a claim has its key"
    assert await log.newest_txn_id() == "t2", "a claim is a row with a key"
    assert await log.by_txn_id(TxnId("t1")) == claim
    assert await log.by_keys([("caller", "key")]) == {("caller", "key"): claim}
    unfinished = await log.list_decisions(after="", limit=9, unfinished_only=True)
    assert list(unfinished) == [claim, other], "a claim has no end"
    assert await log.truncate(after="", limit=9, before_us=10) == (0, None), "a claim stays"
    assert await log.ended([TxnId("t1")]) == frozenset(), "what is claimed has not ended"
    assert list(await log.close_all([refused])) == [refused], "a claim is closed as is said"
    changed = replace(refused, reason="OTHER")
    assert list(await log.close_all([changed])) == [refused], "and only once"
    durable, lost = asyncio.Event(), asyncio.Event()
    log.close_lazily([commit], durable.set, lost.set)
    await _decide(log, replace(inquiry, txn_id=TxnId("t4")))
    async with asyncio.timeout(DURABLE_TIMEOUT_S):
        await durable.wait()
    assert not lost.is_set(), "what is durable is not lost"
    assert await log.by_txn_id(TxnId("t1")) == commit, "the next force closes it"
    assert await _decide(log, inquiry, rival) == [commit, commit], "and then it stands"
    assert await log.ended([TxnId("t1"), TxnId("t2")]) == {"t1"}
    assert list(await log.list_decisions(after="", limit=9, unfinished_only=True)) == []
    assert await log.newest_txn_id() == "t2"


async def check_epochs(one: DecisionLog, other: DecisionLog) -> None:
    """Checks epochs over an empty log that both share, as two processes do; AssertionError.

    That who has lost its epoch writes nothing is not checked: its process ends.
    """
    assert await one.epochs() == Epochs((), NO_EPOCH, None), "a new log knows of nobody"
    first = await one.begin_epoch("a")
    assert first == Tenure(Epoch(1), frozenset({NO_EPOCH})), "the first inherits what was before"
    second = await other.begin_epoch("b")
    assert second.epoch == 2, "each start has an epoch of its own"
    assert 1 not in second.inherited, "who is called otherwise goes on"
    row = Decision(
        TxnId("t1.1"), Outcome.COMMITTED, RequestKey("caller", "k", b""), (), decided_at_us=1
    )
    later = replace(row, txn_id=TxnId("t2.2"), request=RequestKey("caller", "l", b""))
    assert await _decide(one, row) == [row]
    assert await _decide(other, later) == [later], "both decide"
    assert await one.by_txn_ids([row.txn_id, TxnId("t9"), later.txn_id]) == {
        row.txn_id: row,
        later.txn_id: later,
    }, "rows are found whoever wrote them"
    await one.announce(TxnId("t1"))
    both = (Standing(Epoch(1), "a", TxnId("t1")), Standing(Epoch(2), "b", None))
    assert await other.epochs() == Epochs(both, Epoch(2), later.txn_id), "each sees the others"
    await other.announce(TxnId("t2"))
    assert await other.take_over(Epoch(1)) == {1}, "whose work goes on is known"
    assert await other.take_over(Epoch(1)) == frozenset(), "an epoch ends once"
    assert await other.take_over(Epoch(7)) == frozenset(), "one that never began does not end"
    left = (Standing(Epoch(2), "b", TxnId("t1")),)
    assert await other.epochs() == Epochs(left, Epoch(2), later.txn_id), (
        "what the other held back is held back on"
    )


async def check_truncation(log: DecisionLog) -> None:
    """Checks what an empty `log` deletes, and what it still says of that; AssertionError."""
    keyed = Decision(
        TxnId("t1"), Outcome.COMMITTED, RequestKey("caller", "k1", b""), (), decided_at_us=1
    )
    unfinished = replace(keyed, txn_id=TxnId("t2"), request=RequestKey("caller", "k2", b""))
    refused = replace(
        keyed,
        txn_id=TxnId("t3"),
        outcome=Outcome.ABORTED,
        request=RequestKey("caller", "k3", b""),
        ended=True,
    )
    young = replace(
        refused, txn_id=TxnId("t4"), request=RequestKey("caller", "k4", b""), decided_at_us=10
    )
    inquiry = Decision(TxnId("t5"), Outcome.ABORTED, None, (), decided_at_us=2, ended=True)
    await _decide(log, keyed, unfinished, refused, young, inquiry)
    await _end(log, keyed)
    assert await log.ended([TxnId("t1"), TxnId("t2"), TxnId("t3")]) == {"t1"}, (
        "ended are commits whose end is durable"
    )
    first = await log.truncate(after="", limit=2, before_us=10)
    assert first == (1, "t2"), "what has ended and is old goes"
    rest = await log.truncate(after="t2", limit=9, before_us=10)
    assert rest == (2, None), "an inquiry's abort that is old goes too"
    assert list(await log.list_decisions(after="", limit=9)) == [unfinished, young], (
        "what has no end, or is young, stays"
    )
    assert await log.newest_txn_id() == "t4", "the newest row with a key"
    assert await log.by_keys([("caller", "k1"), ("caller", "k2")]) == {("caller", "k2"): unfinished}
    gone, kept, above = await log.decide_all(
        [replace(inquiry, txn_id=TxnId(each)) for each in ("t1", "t2", "t9")]
    )
    assert isinstance(gone, TooOld), "absence says nothing of what may have been truncated"
    assert kept == unfinished, "a row that stands is the answer, also below what is gone"
    assert above == replace(inquiry, txn_id=TxnId("t9")), "above, absence means that"
    assert await log.by_txn_id(TxnId("t1")) is None
    assert await log.ended([TxnId("t1"), TxnId("t2")]) == {"t1"}, "what is gone had ended"
    assert await log.truncate(after="", limit=1, before_us=0) == (0, None), "nothing is old"
    await log.truncate(after="", limit=9, before_us=11)
    assert await log.newest_txn_id() == "t4", "no new id may be below one that was decided"
    await _end(log, unfinished)
    assert await log.truncate(after="", limit=9, before_us=11) == (1, None), "now it has ended"
    assert await log.newest_txn_id() == "t4", "what is noted of rows that are gone never goes back"
    (between,) = await log.decide_all([replace(inquiry, txn_id=TxnId("t4"))])
    assert isinstance(between, TooOld), "nor does what absence says nothing of"


async def check_force(log: DecisionLog) -> None:
    """Checks what an operator may force in an empty `log`, and what is kept of that."""
    by = Signature("ann", "the ledger's host is gone", 7)
    claim = Decision(
        TxnId("t1"),
        Outcome.PENDING,
        RequestKey("caller", "k1", b""),
        (LoggedBranch(BranchId("b"), "ledger", None),),
        decided_at_us=1,
    )
    closed = replace(claim, outcome=Outcome.COMMITTED, reason="", decided_at_us=2)
    ended = replace(closed, ended=True)
    abort = replace(
        closed,
        txn_id=TxnId("t2"),
        outcome=Outcome.ABORTED,
        request=RequestKey("caller", "k2", b""),
        ended=True,
    )
    inquiry = Decision(TxnId("t3"), Outcome.ABORTED, None, (), decided_at_us=2, ended=True)
    commit = replace(abort, outcome=Outcome.COMMITTED, ended=False)
    await _decide(log, claim)
    assert await log.force(commit, by, over=None) == Forced(None, None), (
        "nothing is committed by force"
    )
    other = replace(closed, request=RequestKey("caller", "k9", b""))
    assert await log.force(other, by, over=Outcome.PENDING) == Forced(claim, None), (
        "a claim is closed under its key"
    )
    early = replace(closed, outcome=Outcome.ABORTED, ended=True)
    assert await log.force(early, by, over=None) == Forced(claim, None), (
        "who has seen nothing aborts no claim"
    )
    first = AuditRecord(1, TxnId("t1"), "PENDING", "COMMITTED", by)
    assert await log.force(closed, by, over=Outcome.PENDING) == Forced(closed, first), (
        "a claim is what is stated"
    )
    lost = replace(closed, outcome=Outcome.ABORTED)
    assert await log.force(lost, by, over=Outcome.COMMITTED) == Forced(closed, None), (
        "an outcome is never another one"
    )
    again = replace(closed, decided_at_us=9)
    assert await log.force(again, by, over=Outcome.COMMITTED) == Forced(closed, None), (
        "nor is it written twice"
    )
    second = AuditRecord(2, TxnId("t1"), "COMMITTED", "COMMITTED_ENDED", by)
    assert await log.force(ended, by, over=Outcome.COMMITTED) == Forced(ended, second), (
        "what was told by hand has ended"
    )
    assert await log.force(ended, by, over=Outcome.COMMITTED) == Forced(ended, None), (
        "and ends once"
    )
    third = AuditRecord(3, TxnId("t2"), "NONE", "ABORTED_ENDED", by)
    assert await log.force(abort, by, over=None) == Forced(abort, third), (
        "what has no row is aborted"
    )
    assert await _decide(log, commit) == [abort], "and is not committed any more"
    rival = replace(abort, txn_id=TxnId("t9"))
    assert await log.force(rival, by, over=None) == Forced(abort, None), "a key has one row"
    fourth = AuditRecord(4, TxnId("t3"), "NONE", "ABORTED_ENDED", by)
    assert await log.force(inquiry, by, over=None) == Forced(inquiry, fourth), (
        "also where nobody has a key"
    )
    assert await log.by_txn_id(TxnId("t1")) == ended, "the row is as it was said to be"
    await log.truncate(after="", limit=9, before_us=10)
    assert list(await log.list_audit(after=0, limit=9)) == [first, second, third, fourth], (
        "records outlive the rows they are about"
    )
    assert list(await log.list_audit(after=2, limit=1)) == [third], "page by page"
    assert list(await log.list_audit(after=1, limit=9, txn_id=TxnId("t1"))) == [second]
    gone = replace(inquiry, txn_id=TxnId("t2"))
    (old,) = await asyncio.gather(log.force(gone, by, over=None), return_exceptions=True)
    assert isinstance(old, TooOld), "absence says nothing of what may have been truncated"
    assert len(await log.list_audit(after=0, limit=9)) == 4, "what was refused leaves no record"


async def _end(log: DecisionLog, commit: Decision) -> None:
    durable = asyncio.Event()
    log.end_all([commit.txn_id], durable.set)
    await _decide(log, commit)
    async with asyncio.timeout(DURABLE_TIMEOUT_S):
        await durable.wait()


async def _decide(log: DecisionLog, *decisions: Decision) -> list[Decision | TxnError]:
    return list(await log.decide_all(decisions))


async def check_branch_table(store: Store[Tx], table: BranchTable[Tx]) -> None:
    """Checks that an empty `table` keeps the promises of BranchTable; raises AssertionError."""
    operation = Operation("type.example/Op", b"\x00\xff")
    first = BranchRow(
        BranchKey(TxnId("t1"), BranchId("a")), BranchState.PREPARED, "coordinator", operation, 1
    )
    second = replace(first, key=BranchKey(TxnId("t1"), BranchId("b")))
    unknown = BranchKey(TxnId("t9"), BranchId("a"))
    empty = BranchRow(BranchKey(TxnId("t2"), BranchId("a")), BranchState.ABORTED, "", None, 2, "NO")

    def insert_and_fail(tx: Tx) -> None:
        table.insert_all(tx, [replace(first, key=BranchKey(TxnId("t3"), BranchId("a")))])
        raise LookupError("undone")

    await store.write(lambda tx: table.insert_all(tx, [empty, second, first]))
    found = await store.look_up(lambda tx: table.get_all(tx, [first.key, empty.key, unknown]))
    assert dict(found) == {first.key: first, empty.key: empty}
    (raised,) = await asyncio.gather(store.write(insert_and_fail), return_exceptions=True)
    assert isinstance(raised, LookupError), "what the work raises must be raised"
    await store.write(lambda tx: table.set_state_all(tx, [second.key], BranchState.COMMITTED))
    committed = replace(second, state=BranchState.COMMITTED)

    def page(after: BranchKey | None, state: BranchState | None) -> Callable[[Tx], list[BranchRow]]:
        return lambda tx: list(table.list_rows(tx, after=after, limit=2, state=state))

    assert await store.read(page(None, None)) == [first, committed]
    assert await store.read(page(committed.key, None)) == [empty], "work that raised left a row"
    assert await store.read(page(None, BranchState.PREPARED)) == [first]


async def check_forgetting(store: Store[Tx], table: BranchTable[Tx]) -> None:
    """Checks what an empty `table` forgets, and what it remembers of that."""
    states = {
        "t1-x": BranchState.COMMITTED,
        "t2-x": BranchState.ABORTED,
        "t2-y": BranchState.ABORTED,
        "t3-x": BranchState.PREPARED,
        "t4-x": BranchState.COMMITTED,
        "t5-x": BranchState.COMMITTED,
    }
    keys = [BranchKey(TxnId(txn_id), BranchId("a")) for txn_id in states]
    await store.write(
        lambda tx: table.insert_all(
            tx, [BranchRow(key, states[key.txn_id], "", None, 1) for key in keys]
        )
    )
    assert await store.look_up(lambda tx: table.prepare_horizon(tx, "-x")) == ""
    told = [key for key in keys if key.txn_id != "t4-x"]
    assert await store.write(lambda tx: table.forget(tx, told, "-x", "t5-x")) == 2
    left = await store.look_up(lambda tx: table.get_all(tx, keys))
    assert sorted(key.txn_id for key in left) == ["t2-y", "t3-x", "t4-x", "t5-x"], (
        "forgotten are commits that were told, and aborts of that log, below the horizon"
    )
    await store.write(lambda tx: table.forget(tx, [], "-x", "t2-x"))
    assert await store.look_up(lambda tx: table.prepare_horizon(tx, "-x")) == "t5-x", (
        "a horizon never goes back"
    )
    assert await store.look_up(lambda tx: table.prepare_horizon(tx, "-y")) == ""
    for log_id in ("-X", "-%", "-_", ""):
        await store.write(partial(table.forget, keys=[], log_id=log_id, horizon=f"t9{log_id}"))
    left = await store.look_up(lambda tx: table.get_all(tx, keys))
    assert "t2-y" in {key.txn_id for key in left}, "an abort of another log stays"
