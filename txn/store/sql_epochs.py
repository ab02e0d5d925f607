"""The epochs of a decision log in SQL: who may decide, and who goes on with whose work."""

from __future__ import annotations

from collections.abc import Callable

from txn.decision_log import Standing, Tenure, lowest_horizon
from txn.errors import Fenced
from txn.model import NO_EPOCH, Epoch, TxnId, epoch_of
from txn.store.sql import Sql

_INSERT = "INSERT INTO epoch (epoch, instance, horizon) VALUES (?, ?, ?)"


def guard_of(epoch: Epoch) -> Callable[[Sql], None]:
    """What looks, first in each group, whether `epoch` stands. It raises Fenced."""

    def guard(tx: Sql) -> None:
        query = "SELECT 1 FROM epoch WHERE epoch = ? AND successor IS NULL"
        if tx.execute(query, (epoch,)).fetchone() is None:
            raise Fenced(f"epoch {epoch} is over")

    return guard


def begin(tx: Sql, instance: str, newest_txn_id: str) -> Tenure:
    """Begins the next epoch; see DecisionLog.begin_epoch."""
    _forget(tx)
    # What was begun before there were epochs goes on under the first.
    tx.execute(f"{_INSERT} ON CONFLICT DO NOTHING", (NO_EPOCH, instance, None))
    epoch = Epoch(newest(tx) + 1)
    query = "SELECT epoch FROM epoch WHERE instance = ? AND successor IS NULL"
    before = [Epoch(each) for (each,) in tx.execute(query, (instance,)).fetchall()]
    tx.execute(_INSERT, (epoch, instance, newest_txn_id or None))
    return Tenure(epoch, frozenset(each for one in before for each in take_over(tx, one, epoch)))


def _forget(tx: Sql) -> None:
    """Those that are over and have left nothing to do, but for the newest."""
    unfinished = tx.execute("SELECT txn_id FROM decision WHERE ended = 0").fetchall()
    needed = {epoch_of(txn_id) for (txn_id,) in unfinished} | {newest(tx)}
    over = tx.execute("SELECT epoch FROM epoch WHERE successor IS NOT NULL").fetchall()
    for (epoch,) in over:
        if epoch not in needed:
            tx.execute("DELETE FROM epoch WHERE epoch = ?", (epoch,))


def take_over(tx: Sql, epoch: Epoch, successor: Epoch) -> frozenset[Epoch]:
    """Ends an epoch that stands; returns whose work goes on under `successor` from now on."""
    row = tx.execute(
        "SELECT horizon FROM epoch WHERE epoch = ? AND successor IS NULL", (epoch,)
    ).fetchone()
    if row is None:
        return frozenset()
    mine = tx.execute("SELECT horizon FROM epoch WHERE epoch = ?", (successor,)).fetchone()
    announce(tx, successor, lowest_horizon((row[0], mine[0])))
    query = "SELECT epoch FROM epoch WHERE epoch = ? OR successor = ?"
    inherited = [Epoch(each) for (each,) in tx.execute(query, (epoch, epoch)).fetchall()]
    tx.execute(
        "UPDATE epoch SET successor = ? WHERE epoch = ? OR successor = ?", (successor, epoch, epoch)
    )
    return frozenset(inherited)


def announce(tx: Sql, epoch: Epoch, horizon: str | None) -> None:
    """Notes the horizon of an epoch."""
    tx.execute("UPDATE epoch SET horizon = ? WHERE epoch = ?", (horizon, epoch))


def standing(tx: Sql) -> tuple[Standing, ...]:
    """Those that are not over, in the order of their epochs."""
    query = "SELECT epoch, instance, horizon FROM epoch WHERE successor IS NULL ORDER BY epoch"
    return tuple(
        Standing(Epoch(epoch), instance, None if horizon is None else TxnId(horizon))
        for epoch, instance, horizon in tx.execute(query).fetchall()
    )


def newest(tx: Sql) -> Epoch:
    """The greatest that was ever begun."""
    (epoch,) = tx.execute("SELECT max(epoch) FROM epoch").fetchone()
    return NO_EPOCH if epoch is None else Epoch(epoch)
