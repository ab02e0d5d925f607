"""The decision log on SQLite and PostgreSQL.

SQLite keeps no checksums of its pages, so a bit that flips in a row would be read as if it
had been written. Each row therefore has a CRC-32 of all in it that is written once, compared
whenever it is read; see sqlite_verify.py for what is looked at before anything is answered.
"""

from __future__ import annotations

import importlib.resources
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from txn.audit import AuditRecord, Forced, Signature, may_take_the_place, standing
from txn.clock import Clock, SystemClock
from txn.decision_log import Epochs, Tenure, Truncated
from txn.errors import LogDamaged, TooOld, TxnError
from txn.model import (
    NO_EPOCH,
    BranchId,
    Decision,
    Epoch,
    LoggedBranch,
    RequestKey,
    TxnId,
)
from txn.state import Outcome, Vote
from txn.store import sql_audit, sql_epochs, sql_truncation
from txn.store.group_commit import Store, ride_along, write_unhurried
from txn.store.log_mark import LogMark
from txn.store.migrate import Dialect, Migration, load
from txn.store.sql import Sql, select_in, write_rows

COLUMNS = (
    "txn_id, outcome, caller, idempotency_key, body_hash, branches, reason, "
    "refused_branch_id, decided_at_us, checksum, ended"
)

_KINDS = "text, text, text, text, bytea, text, text, text, bigint, bigint, integer"
BRANCHES_REMEMBERED_MAX = 1_024

_JSON = json.JSONEncoder(separators=(",", ":"))

Row: TypeAlias = tuple[Any, ...]


def schema(dialect: Dialect = "sqlite") -> Mapping[str, tuple[Migration, ...]]:
    """The migrations that a store of decisions needs."""
    return {
        "coordinator": load(
            importlib.resources.files(__package__) / "migrations" / dialect / "coordinator"
        )
    }


class SqlDecisionLog:
    """DecisionLog over a store whose transactions take SQL."""

    def __init__(
        self,
        store: Store[Sql],
        clock: Clock | None = None,
        mark: LogMark | None = None,
    ) -> None:
        """`mark` notes how far the log was durable; without one a lost end is not noticed."""
        self._store = store
        self._clock = clock or SystemClock()
        self._mark = mark
        self._epoch = NO_EPOCH
        # Ends that wait for the next force: readers should see them already.
        self._ending: set[TxnId] = set()

    async def identity(self, proposed: str) -> str:
        """See DecisionLog.identity."""
        return await self._store.write(lambda tx: _identity(tx, proposed))

    async def begin_epoch(self, instance: str) -> Tenure:
        """See DecisionLog.begin_epoch."""
        tenure = await self._store.write(
            lambda tx: sql_epochs.begin(tx, instance, _newest_txn_id(tx)), essential=True
        )
        self._epoch = tenure.epoch
        self._store.hold(sql_epochs.guard_of(tenure.epoch))
        return tenure

    async def take_over(self, epoch: Epoch) -> frozenset[Epoch]:
        """See DecisionLog.take_over."""
        return await self._store.write(
            lambda tx: sql_epochs.take_over(tx, epoch, self._epoch), essential=True
        )

    async def epochs(self) -> Epochs:
        """See DecisionLog.epochs."""
        return await self._store.read(_epochs)

    async def announce(self, horizon: TxnId) -> None:
        """See DecisionLog.announce."""
        await write_unhurried(
            self._store, lambda tx: sql_epochs.announce(tx, self._epoch, horizon), self._clock
        )

    async def newest_txn_id(self) -> TxnId | None:
        """See DecisionLog.newest_txn_id."""
        newest = await self._store.look_up(_newest_txn_id)
        return TxnId(newest) if newest else None

    async def decide_all(self, decisions: Sequence[Decision]) -> list[Decision | TxnError]:
        """See DecisionLog.decide_all."""
        # A commit, and the answer to an inquiry, free what is held; a refusal can wait for room.
        essential = [_frees(decision) for decision in decisions]
        stand: list[Decision | TxnError | None] = [None] * len(decisions)
        for kind in set(essential):
            at = [index for index, each in enumerate(essential) if each is kind]
            rows = await self._decide([decisions[index] for index in at], essential=kind)
            for index, row in zip(at, rows, strict=True):
                stand[index] = row
        return [each for each in stand if each is not None]

    async def _decide(
        self, decisions: Sequence[Decision], *, essential: bool
    ) -> Sequence[Decision | TxnError]:
        try:
            rows = await self._store.write_all(
                _insert_and_read_back, decisions, essential=essential
            )
        except TxnError as error:
            return [error] * len(decisions)
        self._note(rows, closed=False)
        return [
            row if isinstance(row, Decision | TxnError) else TxnError(repr(row)) for row in rows
        ]

    def _note(self, rows: Sequence[Decision | Exception], *, closed: bool) -> None:
        """Before anybody is told: a log that loses what somebody knows is to be noticed."""
        if self._mark is None:
            return
        for row in reversed(rows):
            # Others may be deleted and leave no trace, see sql_truncation.py.
            if isinstance(row, Decision) and row.request is not None:
                self._mark.write(row.txn_id, closed=closed)
                break

    async def close_all(self, claims: Sequence[Decision]) -> Sequence[Decision | TxnError]:
        """See DecisionLog.close_all."""
        try:
            rows = await self._store.write_all(_close, claims, essential=True)
        except TxnError as error:
            return [error] * len(claims)
        self._note(rows, closed=True)
        return [
            row if isinstance(row, Decision | TxnError) else TxnError(repr(row)) for row in rows
        ]

    def close_lazily(
        self, claims: Sequence[Decision], durable: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        """See DecisionLog.close_lazily."""
        ride_along(self._store, lambda tx: _close(tx, claims), durable, lost)

    def end_all(self, txn_ids: Sequence[TxnId], durable: Callable[[], None]) -> None:
        """See DecisionLog.end_all."""
        self._ending.update(txn_ids)

        def mark(tx: Sql) -> None:
            write_rows(
                tx,
                "UPDATE decision SET ended = 1 WHERE txn_id IN ({rows})",
                [(txn_id,) for txn_id in txn_ids],
                "text",
            )

        def lost() -> None:
            # They count as unfinished, which is always safe.
            self._ending.difference_update(txn_ids)

        def written() -> None:
            self._ending.difference_update(txn_ids)
            durable()

        try:
            ride_along(self._store, mark, written, lost)
        except TxnError:
            lost()
            raise

    async def ended(self, txn_ids: Sequence[TxnId]) -> frozenset[TxnId]:
        """See DecisionLog.ended."""
        return await self._store.read(lambda tx: sql_truncation.ended(tx, txn_ids))

    async def truncate(self, *, after: str, limit: int, before_us: int) -> Truncated:
        """See DecisionLog.truncate."""
        page = await self._store.read(lambda tx: sql_truncation.look(tx, after, limit, before_us))
        deleted = 0
        if page.going:
            deleted = await write_unhurried(
                self._store, lambda tx: sql_truncation.delete(tx, page), self._clock
            )
        return Truncated(deleted, page.last if page.full and page.any_old else None)

    async def by_txn_id(self, txn_id: TxnId) -> Decision | None:
        """See DecisionLog.by_txn_id."""
        # Taken before the snapshot: an end that is forced in between is in one of the two.
        ending = frozenset(self._ending)
        row = await self._store.look_up(lambda tx: _by_txn_id(tx, txn_id))
        return None if row is None else _decoded(row, ending)

    async def by_txn_ids(self, txn_ids: Sequence[TxnId]) -> dict[TxnId, Decision]:
        """See DecisionLog.by_txn_ids."""
        ending = frozenset(self._ending)
        query = f"SELECT {COLUMNS} FROM decision WHERE txn_id IN"
        rows = await self._store.look_up(lambda tx: select_in(tx, query, txn_ids))
        return {TxnId(row[0]): _decoded(row, ending) for row in rows}

    async def by_keys(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Decision]:
        """See DecisionLog.by_keys."""
        ending = frozenset(self._ending)
        keys: dict[str, list[str]] = {}
        for caller, key in names:
            keys.setdefault(caller, []).append(key)
        rows = await self._store.look_up(
            lambda tx: [row for caller in keys for row in _by_keys(tx, caller, keys[caller])]
        )
        return {(row[2], row[3]): _decoded(row, ending) for row in rows}

    async def list_decisions(
        self, *, after: str, limit: int, unfinished_only: bool = False
    ) -> Sequence[Decision]:
        """See DecisionLog.list_decisions."""
        condition = "AND ended = 0" if unfinished_only else ""
        ending = frozenset(self._ending)
        rows = await self._store.read(
            lambda tx: tx.execute(
                f"SELECT {COLUMNS} FROM decision WHERE txn_id > ? {condition} "
                "ORDER BY txn_id LIMIT ?",
                (after, limit + len(ending)),
            ).fetchall()
        )
        decisions = [_decoded(row, ending) for row in rows]
        return [d for d in decisions if not (unfinished_only and d.ended)][:limit]

    async def force(self, row: Decision, by: Signature, *, over: Outcome | None) -> Forced:
        """See DecisionLog.force."""
        forced = await self._store.write(lambda tx: _force(tx, row, by, over), essential=True)
        if forced.record is not None:
            self._note([row], closed=forced.record.before == Outcome.PENDING.value)
        return forced

    async def list_audit(
        self, *, after: int, limit: int, txn_id: TxnId | None = None
    ) -> Sequence[AuditRecord]:
        """See DecisionLog.list_audit."""
        return await self._store.read(
            lambda tx: sql_audit.select(tx, after=after, limit=limit, txn_id=txn_id)
        )


def _frees(decision: Decision) -> bool:
    return decision.outcome is Outcome.COMMITTED or decision.request is None


def _identity(tx: Sql, proposed: str) -> str:
    tx.execute(
        "INSERT INTO log_identity (one, log_id) VALUES (1, ?) ON CONFLICT DO NOTHING", (proposed,)
    )
    (log_id,) = tx.execute("SELECT log_id FROM log_identity").fetchone()
    return str(log_id)


def _epochs(tx: Sql) -> Epochs:
    newest_txn_id = _newest_txn_id(tx)
    return Epochs(
        sql_epochs.standing(tx),
        sql_epochs.newest(tx),
        TxnId(newest_txn_id) if newest_txn_id else None,
    )


def _newest_txn_id(tx: Sql) -> str:
    query = "SELECT txn_id FROM decision WHERE caller IS NOT NULL ORDER BY txn_id DESC LIMIT 1"
    row = tx.execute(query).fetchone()
    return max(sql_truncation.horizon(tx), "" if row is None else row[0])


def _insert_and_read_back(tx: Sql, decisions: Sequence[Decision]) -> Sequence[Decision | TooOld]:
    inquiries = [decision.txn_id for decision in decisions if decision.request is None]
    if inquiries and min(inquiries) <= (gone := sql_truncation.horizon(tx)):
        return _answer_old_inquiries(tx, decisions, gone)
    return _insert_all(tx, decisions)


def _answer_old_inquiries(
    tx: Sql, decisions: Sequence[Decision], gone: str
) -> Sequence[Decision | TooOld]:
    """One by one, since what may have been truncated must not be answered from absence."""
    stand: list[Decision | TooOld] = []
    for decision in decisions:
        if decision.request is not None or decision.txn_id > gone:
            stand.extend(_insert_all(tx, [decision]))
        elif (row := _by_txn_id(tx, decision.txn_id)) is not None:
            stand.append(_decoded(row, frozenset()))
        else:
            stand.append(TooOld(f"the log has been truncated beyond {decision.txn_id}"))
    return stand


def _insert_all(tx: Sql, decisions: Sequence[Decision]) -> Sequence[Decision]:
    inserted = write_rows(
        tx,
        f"INSERT INTO decision ({COLUMNS}) {{rows}} ON CONFLICT DO NOTHING",
        [_encoded(decision) for decision in decisions],
        _KINDS,
    )
    if inserted == len(decisions):
        return decisions
    return [_read_back(tx, decision) for decision in decisions]


def _close(tx: Sql, claims: Sequence[Decision]) -> Sequence[Decision]:
    """A claim has its key already; what else is in the row is known only now."""
    closed = write_rows(
        tx,
        "UPDATE decision SET outcome = column2, branches = column6, reason = column7, "
        "refused_branch_id = column8, decided_at_us = column9, checksum = column10, "
        "ended = column11 FROM ({rows}) AS closed WHERE txn_id = column1 AND outcome = 'PENDING' "
        "AND (caller, idempotency_key, body_hash) = (column3, column4, column5)",
        [_encoded(claim) for claim in claims],
        _KINDS,
    )
    if closed == len(claims):
        return claims
    return [_closed(tx, claim) for claim in claims]


def _closed(tx: Sql, claim: Decision) -> Decision:
    row = _by_txn_id(tx, claim.txn_id)
    if row is None:
        raise LogDamaged(f"the claim of {claim.txn_id} was written and is not there")
    stands = _decoded(row, frozenset())
    if stands.outcome is Outcome.PENDING:
        raise LogDamaged(f"the claim of {claim.txn_id} is not that of its key")
    return stands


def _force(tx: Sql, row: Decision, by: Signature, over: Outcome | None) -> Forced:
    stood = _standing(tx, row)
    if not may_take_the_place(row, stood, over):
        return Forced(stood, None)
    if stood is None:
        (inserted,) = _insert_and_read_back(tx, [row])
        if isinstance(inserted, TooOld):
            raise inserted
    elif stood.outcome is Outcome.PENDING:
        _close(tx, [row])
    else:
        tx.execute("UPDATE decision SET ended = 1 WHERE txn_id = ?", (row.txn_id,))
    # What stands is read, not believed: on a store that others write to it may not be `row`.
    stands = _standing(tx, row)
    before, after = standing(stood), standing(stands)
    if stands is None or stands.txn_id != row.txn_id or after != standing(row):
        return Forced(stands, None)
    return Forced(stands, sql_audit.insert(tx, row.txn_id, before, after, by))


def _standing(tx: Sql, row: Decision) -> Decision | None:
    found = _find(tx, row)
    return None if found is None else _decoded(found, frozenset())


def _encoded(decision: Decision) -> Row:
    request = decision.request
    row = (
        decision.txn_id,
        decision.outcome.value,
        None if request is None else request.caller,
        None if request is None else request.idempotency_key,
        None if request is None else request.body_hash,
        _branches_encoded(decision.branches),
        decision.reason,
        decision.refused_branch_id,
        decision.decided_at_us,
    )
    return (*row, _checksum(row), decision.ended)


@lru_cache(BRANCHES_REMEMBERED_MAX)
def _branches_encoded(branches: tuple[LoggedBranch, ...]) -> str:
    """Most transactions have branches of the same names at the same participants."""
    return _JSON.encode(
        [
            (branch.branch_id, branch.participant, branch.vote and branch.vote.value)
            for branch in branches
        ]
    )


def _checksum(row: Row) -> int:
    """Of what is written once: `ended` is not among it."""
    txn_id, outcome, caller, key, digest, branches, reason, refused, decided_at_us = row
    text = f"{txn_id}\0{outcome}\0{caller}\0{key}\0{branches}\0{reason}\0{refused}\0{decided_at_us}"
    return zlib.crc32(text.encode(), 0 if digest is None else zlib.crc32(digest))


def check_row(row: Row) -> None:
    """Raises LogDamaged when a row of COLUMNS is not as it was written."""
    *written, checksum, _ended = row
    try:
        # Rows from before checksums were kept have none.
        if checksum is None or checksum == _checksum(tuple(written)):
            return
    except TypeError:
        # A bit that flips can also make one type another one.
        pass
    raise _damaged(row)


def _damaged(row: Row) -> LogDamaged:
    return LogDamaged(f"the row of {row[0]!r} is not as it was written")


def _read_back(tx: Sql, decision: Decision) -> Decision:
    row = _find(tx, decision)
    if row is None:
        raise RuntimeError("an outcome row was neither inserted nor in the way")
    return _decoded(row, frozenset())


def _find(tx: Sql, decision: Decision) -> Row | None:
    """What stands under the txn_id of a row, or else under its key."""
    request = decision.request
    row = _by_txn_id(tx, decision.txn_id)
    if row is None and request is not None:
        row = next(iter(_by_keys(tx, request.caller, [request.idempotency_key])), None)
    return row


def _by_txn_id(tx: Sql, txn_id: str) -> Row | None:
    query = f"SELECT {COLUMNS} FROM decision WHERE txn_id = ?"
    row: Row | None = tx.execute(query, (txn_id,)).fetchone()
    return row


def _by_keys(tx: Sql, caller: str, keys: Sequence[str]) -> Sequence[Row]:
    query = f"SELECT {COLUMNS} FROM decision WHERE caller = ? AND idempotency_key IN"
    return select_in(tx, query, keys, fixed=(caller,))


def decoded(row: Row) -> Decision:
    """What a row of COLUMNS says. Raises LogDamaged when it is not as it was written."""
    return _decoded(row, frozenset())


def _decoded(row: Row, ending: frozenset[TxnId]) -> Decision:
    check_row(row)
    try:
        return _decision(row, ending)
    except (TypeError, ValueError):
        # One without a checksum: no column says what it said.
        raise _damaged(row) from None


def _decision(row: Row, ending: frozenset[TxnId]) -> Decision:
    txn_id, outcome, caller, key, digest, branches, reason, refused, decided_at_us, _, ended = row
    return Decision(
        txn_id=TxnId(txn_id),
        outcome=Outcome(outcome),
        request=None if key is None else RequestKey(caller, key, digest),
        branches=tuple(
            LoggedBranch(BranchId(branch_id), participant, None if vote is None else Vote(vote))
            for branch_id, participant, vote in json.loads(branches)
        ),
        decided_at_us=decided_at_us,
        reason=reason,
        refused_branch_id=refused,
        ended=bool(ended) or txn_id in ending,
    )
