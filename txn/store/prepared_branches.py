"""Branches as transactions that PostgreSQL keeps prepared: what each message does to one of them.

The barrier's row is written by the transaction that is prepared, as COMMITTED, which it is once
anybody can see it. So a branch is PREPARED while there is a prepared transaction of its name, and
else what its row says. The rules are those of barrier.py.

A lock of the session on the branch is held all along, so that its messages are done one after the
other, at whatever replica they come in: a transaction that ends with PREPARE could not hold it
until its successor may look.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from txn import barrier
from txn.barrier import OnAbort, OnCommit, OnPerform, OnPrepare, OnResolve
from txn.errors import IdempotencyConflict, Overloaded, Refused, ResourceFailed
from txn.model import (
    Abort,
    BranchKey,
    BranchRow,
    Commit,
    Operation,
    Perform,
    Prepare,
    Resolve,
    VoteReply,
    log_id_of,
)
from txn.participant import LATE, LATE_PREPARE, YES
from txn.prepared_name import PreparedName, digest_of, name_in, prefix_of
from txn.resource import REFUSED
from txn.state import BRANCH_MOVES, BranchState, Vote, move
from txn.store.postgres import LIMITS, PostgresTx, Session, lock_number
from txn.store.sql_branches import SqlBranchTable

# How long a statement waits for a lock that another transaction has, prepared ones too, before
# that one is in the way; shorter than a coordinator waits for an answer.
PREPARING_LOCK_TIMEOUT_S = 1

# The times are UTC, microseconds since 1970. A server has the prepared of all its databases.
_HELD = (
    "SELECT gid, (extract(epoch FROM prepared) * 1000000)::bigint FROM pg_prepared_xacts "
    "WHERE database = current_database() AND starts_with(gid, ?)"
)
_log = logging.getLogger(__name__)

T = TypeVar("T")
# The business code of one branch, bound to its operation.
Run = Callable[[PostgresTx], Vote]


class Held(NamedTuple):
    """A prepared transaction."""

    name: PreparedName
    prepared_at_us: int

    def row(self, operation: Operation | None = None) -> BranchRow:
        """As what is remembered of a branch; `operation` only where it is that one."""
        same = operation is not None and digest_of(operation) == self.name.digest
        return BranchRow(
            self.name.key,
            BranchState.PREPARED,
            self.name.coordinator,
            operation if same else None,
            self.prepared_at_us,
        )


def settings_of(schema: str) -> dict[str, str]:
    """Of the connections: business tables may be in the branches' own schema, or in `public`."""
    return {
        "search_path": f'"{schema}", public',
        "lock_timeout": f"{PREPARING_LOCK_TIMEOUT_S}s",
    }


def held_in(tx: PostgresTx, schema: str, key: BranchKey | None = None) -> list[Held]:
    """What is prepared in a schema, or of one branch there, in the order of the keys."""
    found = [
        Held(name, at_us)
        for gid, at_us in tx.execute(_HELD, (prefix_of(schema, key),)).fetchall()
        if (name := name_in(gid)) is not None
    ]
    return sorted(found, key=lambda held: held.name.key)


class PreparedBranches:
    """Those of one schema. Every method raises psycopg.Error where the server does not do it."""

    def __init__(self, schema: str, now_us: Callable[[], int]) -> None:
        self._schema = schema
        self._now_us = now_us
        self._table = SqlBranchTable()
        # What business code may have set stays with it.
        kept = {**LIMITS, **settings_of(schema)}.items()
        again = [sql.SQL("set_config({}, {}, false)").format(name, to) for name, to in kept]
        self._leave = sql.SQL("SELECT {}").format(
            sql.SQL(", ").join([sql.SQL("pg_advisory_unlock_all()"), *again])
        )

    def with_branch(self, session: Session, key: BranchKey, work: Callable[[PostgresTx], T]) -> T:
        """Does `work` while no other message of the branch is; what it leaves open is undone.

        Raises StoreError, also when another message takes longer than PREPARING_LOCK_TIMEOUT_S.
        """
        number = lock_number(prefix_of(self._schema, key))
        tx = session.begin(f"SELECT pg_advisory_lock({number})")
        tx.sqlstate = ""
        try:
            return work(tx)
        finally:
            session.end(tx)
            try:
                tx.script(self._leave.as_string(None))
            except psycopg.Error:
                # The lock goes with its connection.
                session.close()

    def prepare(self, tx: PostgresTx, message: Prepare, run: Run) -> VoteReply:
        """Votes. Raises IdempotencyConflict, ResourceFailed, Overloaded, and what `run` raises."""
        key, operation = message.key, message.operation
        gid = PreparedName(self._schema, key, message.coordinator, digest_of(operation)).gid()
        row = self.get(tx, key, operation)
        verdict = barrier.on_prepare(row, key, operation, self._horizon(tx, key))
        if verdict is OnPrepare.CONFLICT:
            raise IdempotencyConflict("the branch was prepared with another operation")
        if verdict is not OnPrepare.RUN:
            return YES if verdict is OnPrepare.REPEAT else LATE
        vote = self._run(tx, message, run)
        if vote is Vote.COMMIT:
            _prepare_transaction(tx, gid)
        return VoteReply(vote)

    def commit(self, tx: PostgresTx, message: Commit) -> None:
        """Makes it final, if it is not. Raises an Alarm."""
        verdict = barrier.on_commit(self.get(tx, message.key))
        _raise_if_alarm(verdict)
        if verdict is OnCommit.APPLY:
            _end_prepared(tx, "COMMIT PREPARED", held_in(tx, self._schema, message.key))

    def abort(self, tx: PostgresTx, message: Abort) -> None:
        """Undoes it, and remembers that. Raises an Alarm.

        Whoever dies in between leaves a branch that was never heard of, and has not answered.
        """
        verdict = barrier.on_abort(self.get(tx, message.key))
        _raise_if_alarm(verdict)
        if verdict is OnAbort.UNDO:
            _end_prepared(tx, "ROLLBACK PREPARED", held_in(tx, self._schema, message.key))
        if verdict is not OnAbort.DONE:
            self._insert(tx, message.key, BranchState.ABORTED)

    def perform(self, tx: PostgresTx, message: Perform, run: Run) -> VoteReply:
        """Does all of it in one local transaction, or remembers that it was refused."""
        key, operation = message.key, message.operation
        row = self.get(tx, key, operation)
        verdict = barrier.on_perform(row, key, operation, self._horizon(tx, key))
        _raise_if_alarm(verdict)
        if verdict is OnPerform.REPEAT:
            return YES
        if verdict is OnPerform.LATE:
            return VoteReply(Vote.ABORT, (row.reason if row else "") or LATE_PREPARE)
        try:
            vote = self._run(tx, message, run)
        except Refused as refused:
            tx.script("ROLLBACK")
            self._insert(tx, key, BranchState.ABORTED, reason=refused.reason)
            return VoteReply(Vote.ABORT, refused.reason)
        if vote is Vote.COMMIT:
            said = tx.script("COMMIT").statusmessage
            assert said == "COMMIT", said
        return VoteReply(vote)

    def resolve(self, tx: PostgresTx, message: Resolve) -> VoteReply:
        """Says whether it was performed; if not, it never will be. Raises an Alarm."""
        key = message.key
        row = self.get(tx, key)
        verdict = barrier.on_resolve(row, key, self._horizon(tx, key))
        _raise_if_alarm(verdict)
        if verdict is OnResolve.COMMITTED:
            return YES
        if verdict is OnResolve.REMEMBER:
            self._insert(tx, key, BranchState.ABORTED, reason=message.reason)
        return VoteReply(Vote.ABORT, message.reason if row is None else row.reason)

    def get(
        self, tx: PostgresTx, key: BranchKey, operation: Operation | None = None
    ) -> BranchRow | None:
        """What is remembered of a branch; of a prepared one no operation, unless it is this one."""
        for held in held_in(tx, self._schema, key):
            return held.row(operation)
        return self._table.get_all(tx, [key]).get(key)

    def list_rows(
        self, tx: PostgresTx, after: BranchKey | None, limit: int, state: BranchState | None
    ) -> Sequence[BranchRow]:
        """See BranchTable.list_rows. Those that are prepared are no rows yet."""
        rows: list[BranchRow] = []
        if state in (None, BranchState.PREPARED):
            held = [each.row() for each in held_in(tx, self._schema)]
            rows += [row for row in held if after is None or row.key > after][:limit]
        if state is not BranchState.PREPARED:
            rows += self._table.list_rows(tx, after=after, limit=limit, state=state)
        # A branch may be committed between the two statements, and then is twice in what they say.
        by_key = {row.key: row for row in rows}
        return [by_key[key] for key in sorted(by_key)][:limit]

    def forget(self, tx: PostgresTx, keys: Sequence[BranchKey], horizon: str) -> int:
        """See BranchTable.forget; in a transaction of the caller's."""
        return self._table.forget(tx, keys, log_id_of(horizon), horizon)

    def _run(self, tx: PostgresTx, message: Prepare | Perform, run: Run) -> Vote:
        tx.script("BEGIN")
        self._insert(tx, message.key, BranchState.COMMITTED, message.coordinator, message.operation)
        number = _number_of(tx)
        vote = run(tx)
        if vote not in (Vote.COMMIT, Vote.READ_ONLY):
            raise Refused(REFUSED)
        if tx.status is not TransactionStatus.INTRANS or _number_of(tx) != number:
            _log.error("%s: its resource left the transaction ended or failed", message.key)
            raise ResourceFailed("the resource left its transaction ended or failed")
        return vote

    def _horizon(self, tx: PostgresTx, key: BranchKey) -> str:
        # Read after the row: an abort that is forgotten in between is below the horizon by then.
        return self._table.prepare_horizon(tx, log_id_of(key.txn_id))

    def _insert(
        self,
        tx: PostgresTx,
        key: BranchKey,
        state: BranchState,
        coordinator: str = "",
        operation: Operation | None = None,
        reason: str = "",
    ) -> None:
        to = move(BRANCH_MOVES, None, state)
        row = BranchRow(key, to, coordinator, operation, self._now_us(), reason)
        self._table.insert_all(tx, [row])


def _number_of(tx: PostgresTx) -> str:
    """What PostgreSQL calls this transaction: who ends it and begins another has another."""
    (number,) = tx.execute("SELECT pg_current_xact_id()::text").fetchone() or ("",)
    return str(number)


def _prepare_transaction(tx: PostgresTx, gid: str) -> None:
    try:
        said = tx.script(f"PREPARE TRANSACTION {_literal(gid)}")
    except psycopg.errors.OutOfMemory as error:
        # "maximum number of prepared transactions reached" is of that class.
        raise Overloaded("max_prepared_transactions of the database is reached") from error
    # In a transaction that has failed it would be ROLLBACK.
    assert said.statusmessage == "PREPARE TRANSACTION", said.statusmessage


def _end_prepared(tx: PostgresTx, how: str, held: Sequence[Held]) -> None:
    for each in held:
        tx.script(f"{how} {_literal(each.name.gid())}")


def _literal(gid: str) -> str:
    return sql.Literal(gid).as_string(None)


def _raise_if_alarm(verdict: object) -> None:
    if verdict in barrier.ALARMS:
        alarm, says = barrier.ALARMS[verdict]
        raise alarm(says)
