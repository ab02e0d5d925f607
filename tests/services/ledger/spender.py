"""A replica of the ledger that prepares payments of 1 from one account, as fast as it goes.

    python -m tests.services.ledger.spender DSN SCHEMA NAME COUNT

Prints how each ended, in groups of 8: a vote, the reason of a refusal, or an error.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from tallystick.ledger.v1.ledger_service_pb2 import TransferOperation
from tallystick.type.v1.money_pb2 import Money

from services.ledger.transfer import TransferResource
from tests.txn.helpers import FastClock, key
from txn.errors import Busy, Refused
from txn.resource import Item
from txn.state import Vote
from txn.store.group_commit import Done, Failed, GroupCommit, Raised
from txn.store.postgres import PostgresWriter

GROUP = 8


def die(error: BaseException) -> NoReturn:
    """No commit may fail here."""
    raise SystemExit(4) from error


def outcome(result: Vote | Refused | Busy | Raised) -> str:
    """In a word."""
    if isinstance(result, Raised):
        return repr(result.error)
    return result.name if isinstance(result, Vote) else result.reason


def main(dsn: str, schema: str, name: str, count: int) -> None:
    """Groups of prepares, one after the other."""
    group = GroupCommit(PostgresWriter(dsn, schema, {}), on_commit_failure=die)
    resource = TransferResource(FastClock())
    apply = resource.prepare_all
    operation = TransferOperation(
        debit_account_id="payer",
        credit_account_id="payee",
        amount=Money(currency_code="EUR", amount_minor=1),
    )

    def report(result: Done[list[Vote | Refused | Busy | Raised]] | Failed) -> None:
        told = [repr(result.error)] if isinstance(result, Failed) else map(outcome, result.value)
        sys.stdout.writelines(f"{each}\n" for each in told)

    for first in range(0, count, GROUP):
        items = [Item(key(f"{name}-{first + at:06}"), operation) for at in range(GROUP)]
        group.submit_all(apply, items, report)
        for told, settled in group.drain():
            told(settled)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
