"""Fills the stores of order, ledger and coordinator before the processes start, in bulk.

What is filled in is what the services themselves would have written, by the same schema;
it goes around their durability, so it is flushed as a whole before anything is measured.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from bench.payments import AMOUNT_MINOR, CURRENCY, HOT_PAYEE, Series
from services.ledger import books
from services.store import own_schema
from txn.store import sql_branches, sql_log
from txn.store.migrate import Migration
from txn.store.sqlite import SqliteWriter

BANK: Final = "bank"
FUNDS_MINOR: Final = 10**9
_YEAR_US: Final = 365 * 86_400 * 1_000_000
_TRADE_COLUMNS: Final = (
    "trade_no, merchant_id, out_trade_no, subject, currency_code, amount_minor, "
    "payee_account_id, state, txn_id, payer_account_id, valid_for_us, created_at_us, "
    "expires_at_us, paid_at_us"
)


def book(home: Path, service: str) -> Path:
    """The store of a service."""
    return home / "data" / f"{service}.db"


def schema_of(service: str) -> Mapping[str, tuple[Migration, ...]]:
    """What stands in the store of a service."""
    if service == "coordinator":
        return sql_log.schema()
    return {**own_schema(service), **sql_branches.schema()}


@contextmanager
def filling(home: Path, service: str) -> Iterator[sqlite3.Connection]:
    """One transaction on the store of a service that does not run; on the disk on leaving."""
    path = book(home, service)
    SqliteWriter(path, schema_of(service)).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Nothing is read back should this fail: then there is no measurement.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stock(home: Path, payments: Mapping[Series, int]) -> None:
    """Funded payers, payees, and a trade for each of the first `payments` of each series.

    The coordinator's store is empty.
    """
    with filling(home, "coordinator"):
        pass
    with filling(home, "order") as connection:
        for series, count in payments.items():
            add_trades(connection, series, count)
    with filling(home, "ledger") as connection:
        add_accounts(connection, max(series.accounts for series in payments))


def add_trades(connection: sqlite3.Connection, series: Series, count: int) -> None:
    """Trades that wait for their payers, for a year."""
    now_us = time.time_ns() // 1_000
    connection.executemany(
        f"INSERT INTO trade ({_TRADE_COLUMNS}) VALUES (?, ?, ?, 'two coffees', "
        f"'{CURRENCY}', {AMOUNT_MINOR}, ?, 'WAIT_BUYER_PAY', '', '', {_YEAR_US}, {now_us}, "
        f"{now_us + _YEAR_US}, NULL)",
        (
            (series.trade_no(number), f"merchant-{series.name}", f"{number:012}", payee)
            for number in range(count)
            for payee in (series.payee(number),)
        ),
    )


def add_accounts(connection: sqlite3.Connection, accounts: int) -> None:
    """Payers that the bank has funded, which the journal says too, and payees with nothing."""
    now_us = time.time_ns() // 1_000
    total_minor = accounts * FUNDS_MINOR
    account = "INSERT INTO account VALUES"
    connection.execute(
        f"{account} ('{BANK}', '{CURRENCY}', -{10**18}, -{total_minor}, 0, {now_us})"
    )
    connection.execute(f"{account} ('{HOT_PAYEE}', '{CURRENCY}', 0, 0, 0, {now_us})")
    for kind, posted_minor in (("payer", FUNDS_MINOR), ("payee", 0)):
        connection.execute(
            f"{numbers(accounts)} INSERT INTO account SELECT '{kind}-' || i, '{CURRENCY}', 0, "
            f"{posted_minor}, 0, {now_us} FROM n"
        )
    connection.execute(
        f"{numbers(accounts)} INSERT INTO journal_entry "
        f"SELECT NULL, 'fund-' || i, 'ledger', '', {now_us} FROM n"
    )
    for line, account_id, sign in ((1, f"'{BANK}'", "-"), (2, "'payer-' || substr(txn_id, 6)", "")):
        connection.execute(
            f"INSERT INTO posting SELECT entry_id, {line}, {account_id}, '{CURRENCY}', "
            f"{sign}{FUNDS_MINOR} FROM journal_entry"
        )


def numbers(count: int) -> str:
    """What a statement begins with that selects `i` from `n`: 0 up to `count`, exclusive."""
    return f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT {count})"


def check(home: Path, paid: int) -> None:
    """Raises AssertionError unless the books of stopped services agree, with `paid` trades paid."""
    with closing(_reading(home, "ledger")) as ledger:
        lines = books.trial_balance(ledger)
        assert all(line.balanced and line.held_minor == 0 for line in lines), lines
    with closing(_reading(home, "order")) as order:
        (succeeded,) = order.execute(
            "SELECT COUNT(*) FROM trade "
            "WHERE state = 'TRADE_SUCCESS' AND merchant_id <> 'merchant-past'"
        ).fetchone()
        assert succeeded == paid, f"{succeeded} trades are paid, of {paid} that were answered"
        (paying,) = order.execute("SELECT COUNT(*) FROM trade WHERE state = 'PAYING'").fetchone()
    assert paying == in_doubt(home) == 0


def in_doubt(home: Path) -> int:
    """Branches that are prepared and nothing more, at both participants."""
    count = 0
    for service in ("order", "ledger"):
        with closing(_reading(home, service)) as connection:
            count += connection.execute(
                "SELECT COUNT(*) FROM branch WHERE state = 'PREPARED'"
            ).fetchone()[0]
    return count


def _reading(home: Path, service: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{book(home, service)}?mode=ro", uri=True)
