"""A system with a past against one without: `full_vs_empty`.

The method stands in `bench.txn`.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from bench import starting, stocking
from bench.interleaved import b_over_a
from bench.paying import Figure, Run, Side, rate, slices_of
from bench.payments import AMOUNT_MINOR, CURRENCY, Series
from bench.rig import Rig

# What is inserted in the order of its own key keeps its table compact; this index is over
# something else, so it is made at once, after the rows.
_POSTING_INDEX: Final = "posting_by_account"


async def full_vs_empty(run: Run) -> Figure:
    """Transactions per second over stores with a past over those without."""
    sizes = run.sizes
    count = slices_of(sizes.slices) * sizes.stream
    series = Series("full", sizes.full_accounts)
    empty = Side(client=run.client, home=run.scratch / "without", stocked={sizes.uniform: count})
    full = Side(client=run.client, home=run.scratch / "with", stocked={series: count})
    began_s = time.monotonic()
    stocking.stock(empty.home, empty.stocked)
    stocking.stock(full.home, full.stocked)
    with stocking.filling(full.home, "order") as connection:
        add_paid(connection, sizes.full_past)
    with stocking.filling(full.home, "ledger") as connection:
        add_posted(connection, sizes.full_past, sizes.full_accounts)
    with stocking.filling(full.home, "coordinator") as connection:
        starting.add_finished(connection, sizes.full_past)
    filled_s = round(time.monotonic() - began_s, 1)
    async with AsyncExitStack() as stack:
        for side in (empty, full):
            side.address = (await stack.enter_async_context(Rig(side.home))).address
        measured = await b_over_a(
            lambda: rate(partial(empty.stream, sizes, sizes.uniform)),
            lambda: rate(partial(full.stream, sizes, series)),
            sizes.slices,
        )
    empty.check()
    full.check()
    bytes_ = {
        service: stocking.book(full.home, service).stat().st_size
        for service in ("order", "ledger", "coordinator")
    }
    return measured["ratio"], measured | {"filled_s": filled_s, "bytes": bytes_}


def add_paid(connection: sqlite3.Connection, count: int) -> None:
    """Trades that were paid."""
    now_us = time.time_ns() // 1_000
    connection.execute(
        f"{stocking.numbers(count)} INSERT INTO trade SELECT 'past-' || printf('%012d', i), "
        f"'merchant-past', printf('%012d', i), 'two coffees', '{CURRENCY}', {AMOUNT_MINOR}, "
        f"'payee-0', 'TRADE_SUCCESS', printf('%032x', i) || '{starting.LOG_ID}', 'payer-0', "
        f"900000000, {now_us}, {now_us}, {now_us} FROM n"
    )


def add_posted(connection: sqlite3.Connection, count: int, accounts: int) -> None:
    """A journal entry for each, between accounts that take turns, and the balances it leaves."""
    now_us = time.time_ns() // 1_000
    (before,) = connection.execute(
        "SELECT COALESCE(MAX(entry_id), 0) FROM journal_entry"
    ).fetchone()
    ((index,),) = connection.execute(
        "SELECT sql FROM sqlite_master WHERE name = ?", (_POSTING_INDEX,)
    ).fetchall()
    connection.execute(f"DROP INDEX {_POSTING_INDEX}")
    connection.execute(
        f"{stocking.numbers(count)} INSERT INTO journal_entry "
        f"SELECT {before + 1} + i, printf('%032x', i) || '{starting.LOG_ID}', "
        f"'ledger-0', 'past-' || printf('%012d', i), {now_us} FROM n"
    )
    connection.execute(
        f"{stocking.numbers(2 * count)} INSERT INTO posting "
        f"SELECT {before + 1} + i / 2, i % 2 + 1, "
        f"CASE i % 2 WHEN 0 THEN 'payer-' ELSE 'payee-' END || (i / 2 % {accounts}), "
        f"'{CURRENCY}', CASE i % 2 WHEN 0 THEN -{AMOUNT_MINOR} ELSE {AMOUNT_MINOR} END FROM n"
    )
    connection.execute(index)
    for kind, sign in (("payer", "-"), ("payee", "+")):
        # Those below the remainder have had one turn more.
        connection.execute(
            f"UPDATE account SET posted_minor = posted_minor {sign} {AMOUNT_MINOR} * "
            f"({count // accounts} + (CAST(substr(account_id, 7) AS INTEGER) < {count % accounts}))"
            f" WHERE account_id LIKE '{kind}-%' AND account_id <> 'payee-hot'"
        )
