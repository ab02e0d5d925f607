"""The ledger's branch of a payment: hold at prepare, post at commit, void at abort."""

from __future__ import annotations

import sqlite3

from tallystick.ledger.v1 import ledger_service_pb2

from services.ledger import books
from services.money import BALANCE_MAX_MINOR, CurrencyCode, Money
from txn.barrier import in_the_way
from txn.clock import Clock
from txn.errors import Refused
from txn.model import BranchKey
from txn.state import Vote

ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
BALANCE_LIMIT = "BALANCE_LIMIT"


class TransferResource:
    """Resource for TransferOperation."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def prepare(
        self,
        tx: sqlite3.Connection,
        key: BranchKey,
        operation: ledger_service_pb2.TransferOperation,
    ) -> Vote:
        """Reserves the amount on the debited account.

        A credit reserves nothing, so that many payments to one account do not wait for
        each other; BALANCE_LIMIT keeps far enough from 64 bits for all of them.
        """
        debit = books.find_account(tx, operation.debit_account_id)
        credit = books.find_account(tx, operation.credit_account_id)
        if debit is None or credit is None:
            raise Refused(ACCOUNT_NOT_FOUND)
        code = operation.amount.currency_code
        if (debit.currency_code, credit.currency_code) != (code, code):
            raise Refused(CURRENCY_MISMATCH)
        amount_minor = operation.amount.amount_minor
        if debit.posted_minor - amount_minor < debit.limit_minor:
            raise Refused(INSUFFICIENT_FUNDS)
        if debit.available_minor - amount_minor < debit.limit_minor:
            # It would do without the holds of others, some of which may yet be voided.
            youngest = books.youngest_hold(tx, debit.account_id)
            raise in_the_way(key.txn_id, youngest, INSUFFICIENT_FUNDS)
        if credit.posted_minor + amount_minor > BALANCE_MAX_MINOR:
            raise Refused(BALANCE_LIMIT)
        books.place_hold(tx, key, debit.account_id, credit.account_id, amount_minor)
        return Vote.COMMIT

    def commit(
        self,
        tx: sqlite3.Connection,
        key: BranchKey,
        operation: ledger_service_pb2.TransferOperation,
    ) -> None:
        """Posts the hold as a journal entry."""
        money = Money(CurrencyCode(operation.amount.currency_code), operation.amount.amount_minor)
        books.post_hold(tx, key, money, operation.reference, self._clock.utc_us())

    def abort(
        self,
        tx: sqlite3.Connection,
        key: BranchKey,
        operation: ledger_service_pb2.TransferOperation,
    ) -> None:
        """Voids the hold."""
        del operation
        books.void_hold(tx, key)
