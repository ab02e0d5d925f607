"""Several replicas of the ledger over one database."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from services.ledger import books
from services.ledger.books import Account
from services.ledger.transfer import INSUFFICIENT_FUNDS
from services.money import CurrencyCode
from services.store import participant_schema
from tests.support.postgres import PostgresServer
from txn.store.postgres import PostgresTx, PostgresWriter

ROOT = Path(__file__).parents[3]
FUNDS_MINOR = 100
SPENT_EACH = 96
DEADLINE_S = 60.0


def test_two_replicas_never_hold_more_than_there_is(postgres_server: PostgresServer) -> None:
    """Each reads what is left before it holds: all of it is held in the end, and no more is tried.

    Were they not to take turns, the table's own CHECK would stop them, by an error.
    """
    schema = postgres_server.schema()
    writer = PostgresWriter(postgres_server.dsn, schema, participant_schema("ledger", "postgres"))
    tx = writer.begin()
    for name, limit_minor in (("payer", -FUNDS_MINOR), ("payee", 0)):
        books.open_account(tx, Account(name, CurrencyCode("EUR"), limit_minor, 0, 0, 1))
    writer.commit(tx)
    replicas = [
        subprocess.Popen(
            [
                sys.executable, "-m", "tests.services.ledger.spender",
                postgres_server.dsn, schema, name, str(SPENT_EACH),
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    said = Counter(
        line for replica in replicas for line in replica.communicate(timeout=DEADLINE_S)[0].split()
    )
    assert {"COMMIT": FUNDS_MINOR, INSUFFICIENT_FUNDS: 2 * SPENT_EACH - FUNDS_MINOR} == said
    assert FUNDS_MINOR == _held(writer)
    writer.close()


def _held(writer: PostgresWriter) -> int:
    tx: PostgresTx = writer.begin()
    payer = books.find_account(tx, "payer")
    writer.rollback(tx)
    assert payer is not None
    return payer.held_minor
