"""How SQLite goes about the statements that payments run: by index, however many rows there are."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.order.v1 import order_service_pb2
from tallystick.type.v1 import money_pb2

from services.ledger import books
from services.ledger.books import Account
from services.ledger.transfer import TransferResource
from services.money import CurrencyCode
from services.order import trades
from services.order.payment import PayTradeResource
from services.order.state import TradeState
from services.order.trades import Trade
from tests.services.rig import SqliteStore, open_sqlite_store
from tests.txn.helpers import FastClock, commit_row, key
from tests.txn.support import open_sqlite
from txn.model import BranchKey, BranchRow, Decision, TxnId
from txn.resource import BatchResource, Item
from txn.state import BranchState, Outcome, Vote
from txn.store.sql_branches import SqlBranchTable
from txn.store.sql_log import SqlDecisionLog

# One more than a statement takes at once, so that there is one over many rows and one over one.
MANY = 257
MONEY = money_pb2.Money(currency_code="EUR", amount_minor=1)


@asynccontextmanager
async def nothing_is_scanned(store: SqliteStore) -> AsyncIterator[None]:
    """Fails if a statement that is run in the body looks through all of a stored table."""
    seen: list[str] = []
    await store.write(lambda tx: tx.set_trace_callback(seen.append))
    await store.look_up(lambda tx: tx.set_trace_callback(seen.append))
    yield
    await store.write(lambda tx: tx.set_trace_callback(None))
    await store.look_up(lambda tx: tx.set_trace_callback(None))
    assert len(seen) > 1
    assert [] == await store.write(lambda tx: _scans(tx, seen))


def _scans(tx: sqlite3.Connection, statements: list[str]) -> list[str]:
    stored = {name for (name,) in tx.execute("SELECT name FROM sqlite_master")}
    scans = []
    for statement in statements:
        if not statement.startswith(("INSERT", "UPDATE", "DELETE", "SELECT")):
            continue
        for *_, detail in tx.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
            action, name, *_ = detail.split()
            if action == "SCAN" and name in stored:
                scans.append(f"{detail}: {statement[:100]}")
    return scans


async def _moves(
    store: SqliteStore, resource: BatchResource[sqlite3.Connection, Any], operations: list[Any]
) -> None:
    """Half of many is committed, half aborted."""
    items = [Item(key(f"t{at:04}"), each) for at, each in enumerate(operations)]
    async with nothing_is_scanned(store):
        votes = await store.write(lambda tx: resource.prepare_all(tx, items))
        assert [Vote.COMMIT] * len(items) == list(votes)
        await store.write(lambda tx: resource.commit_all(tx, items[: MANY + 1]))
        await store.write(lambda tx: resource.abort_all(tx, items[MANY + 1 :]))


async def test_transfers_scan_nothing(tmp_path: Path) -> None:
    """Holds are placed, taken and posted by key."""

    def fill(tx: sqlite3.Connection) -> None:
        for at in range(2 * MANY):
            for name in ("from", "to"):
                books.open_account(tx, Account(f"{name}{at}", CurrencyCode("EUR"), -9, 0, 0, 1))

    async with open_sqlite_store("ledger", tmp_path) as store:
        await store.write(fill)
        operations = [
            ledger_service_pb2.TransferOperation(
                debit_account_id=f"from{at}", credit_account_id=f"to{at}", amount=MONEY
            )
            for at in range(2 * MANY)
        ]
        await _moves(store, TransferResource(FastClock()), operations)


async def test_payments_of_trades_scan_nothing(tmp_path: Path) -> None:
    """Trades are found and changed by number."""
    clock = FastClock()

    def fill(tx: sqlite3.Connection) -> None:
        for at in range(2 * MANY):
            trades.create(tx, _trade(at, clock.utc_us()))

    async with open_sqlite_store("order", tmp_path) as store:
        await store.write(fill)
        operations = [
            order_service_pb2.PayTradeOperation(
                trade_no=f"n{at}", payer_account_id="payer", payee_account_id="shop", amount=MONEY
            )
            for at in range(2 * MANY)
        ]
        await _moves(store, PayTradeResource(clock), operations)


def _trade(number: int, now_us: int) -> Trade:
    return Trade(
        trade_no=f"n{number}",
        merchant_id="m",
        out_trade_no=f"o{number}",
        subject="tea",
        currency_code="EUR",
        amount_minor=1,
        payee_account_id="shop",
        state=TradeState.WAIT_BUYER_PAY,
        txn_id="",
        payer_account_id="",
        valid_for_us=10**9,
        created_at_us=now_us,
        expires_at_us=now_us + 10**9,
        paid_at_us=None,
    )


async def test_branches_scan_nothing(tmp_path: Path) -> None:
    """They are remembered, looked up, changed and forgotten by key."""
    table = SqlBranchTable()
    rows = [_branch(f"t{at:04}") for at in range(MANY)]
    keys = [row.key for row in rows]
    async with open_sqlite(tmp_path / "p.db") as store, nothing_is_scanned(store):
        await store.write(lambda tx: table.insert_all(tx, rows))
        assert MANY == len(await store.look_up(lambda tx: table.get_all(tx, keys)))
        await store.write(lambda tx: table.set_state_all(tx, keys, BranchState.COMMITTED))
        assert MANY == await store.write(lambda tx: table.forget(tx, keys, "", "u"))


def _branch(txn_id: str) -> BranchRow:
    return BranchRow(BranchKey(TxnId(txn_id), key().branch_id), BranchState.PREPARED, "c", None, 1)


async def test_decisions_scan_nothing(tmp_path: Path) -> None:
    """They are written, found by their keys, ended and closed by id."""
    async with open_sqlite(tmp_path / "c.db") as store:
        log = SqlDecisionLog(store)
        claims, commits = _rows("c", Outcome.PENDING), _rows("d", Outcome.COMMITTED)
        async with nothing_is_scanned(store):
            assert commits == await log.decide_all(commits)
            assert claims == await log.decide_all(claims)
            await log.close_all([_ended(row) for row in claims])
            log.end_all([row.txn_id for row in commits], lambda: None)
            names = [("caller", f"d{at}") for at in range(MANY)]
            await log.by_keys(names)


def _rows(prefix: str, outcome: Outcome) -> list[Decision]:
    return [
        replace(
            commit_row(
                f"{prefix}{at:04}", ("ledger", Vote.COMMIT), idempotency_key=f"{prefix}{at}"
            ),
            outcome=outcome,
        )
        for at in range(MANY)
    ]


def _ended(row: Decision) -> Decision:
    return replace(row, outcome=Outcome.COMMITTED, ended=True)
