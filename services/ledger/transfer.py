"""The ledger's branch of a payment: hold at prepare, post at commit, void at abort."""

from __future__ import annotations

from collections.abc import Sequence

from tallystick.ledger.v1.ledger_service_pb2 import TransferOperation
from tallystick.type.v1 import money_pb2

from services.ledger import books
from services.ledger.books import Account, Hold
from services.money import BALANCE_MAX_MINOR, CurrencyCode, Money
from txn.barrier import in_the_way
from txn.clock import Clock
from txn.errors import Busy, Refused
from txn.model import BranchKey, TxnId
from txn.resource import Item
from txn.state import Vote
from txn.store.sql import Sql

ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
BALANCE_LIMIT = "BALANCE_LIMIT"


class _Working:
    """An account while a batch is prepared: what earlier items have reserved counts."""

    __slots__ = ("account", "held_minor", "youngest")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.held_minor = account.held_minor
        self.youngest: TxnId | None = None


class TransferResource:
    """BatchResource for TransferOperation."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def prepare_all(
        self, tx: Sql, items: Sequence[Item[TransferOperation]]
    ) -> Sequence[Vote | Refused | Busy]:
        """Reserves the amounts on the debited accounts.

        A credit reserves nothing, so that many payments to one account do not wait for
        each other; BALANCE_LIMIT keeps far enough from 64 bits for all of them.
        """
        names = {each.operation.debit_account_id: None for each in items}
        names.update((each.operation.credit_account_id, None) for each in items)
        found = books.find_accounts(tx, list(names))
        accounts = {name: _Working(account) for name, account in found.items()}
        holds: list[Hold] = []
        votes: list[Vote | Refused | Busy] = []
        for key, operation in items:
            debit = accounts.get(operation.debit_account_id)
            credit = accounts.get(operation.credit_account_id)
            if debit is None or credit is None:
                votes.append(Refused(ACCOUNT_NOT_FOUND))
                continue
            amount_minor = operation.amount.amount_minor
            refusal = _refusal(tx, key, operation.amount, debit, credit.account)
            if refusal is not None:
                votes.append(refusal)
                continue
            debit.held_minor += amount_minor
            debit.youngest = max(debit.youngest or key.txn_id, key.txn_id)
            holds.append(
                Hold(key, debit.account.account_id, credit.account.account_id, amount_minor)
            )
            votes.append(Vote.COMMIT)
        books.place_holds(tx, holds)
        return votes

    def commit_all(self, tx: Sql, items: Sequence[Item[TransferOperation]]) -> None:
        """Posts the holds as journal entries."""
        holds = books.take_holds(tx, [item.key for item in items])
        books.post_holds(
            tx,
            [
                (hold, _money(operation.amount), operation.reference)
                for hold, (_, operation) in zip(holds, items, strict=True)
            ],
            self._clock.utc_us(),
        )

    def abort_all(self, tx: Sql, items: Sequence[Item[TransferOperation]]) -> None:
        """Voids the holds."""
        books.void_holds(tx, books.take_holds(tx, [item.key for item in items]))


def _refusal(
    tx: Sql,
    key: BranchKey,
    amount: money_pb2.Money,
    debit: _Working,
    credit: Account,
) -> Refused | Busy | None:
    code, amount_minor = amount.currency_code, amount.amount_minor
    account = debit.account
    if (account.currency_code, credit.currency_code) != (code, code):
        return Refused(CURRENCY_MISMATCH)
    if account.posted_minor - amount_minor < account.limit_minor:
        return Refused(INSUFFICIENT_FUNDS)
    if account.posted_minor - debit.held_minor - amount_minor < account.limit_minor:
        # It would do without the holds of others, some of which may yet be voided.
        written = books.youngest_hold(tx, account.account_id)
        youngest = max(each for each in (written, debit.youngest) if each is not None)
        return in_the_way(key.txn_id, youngest, INSUFFICIENT_FUNDS)
    if credit.posted_minor + amount_minor > BALANCE_MAX_MINOR:
        return Refused(BALANCE_LIMIT)
    return None


def _money(amount: money_pb2.Money) -> Money:
    return Money(CurrencyCode(amount.currency_code), amount.amount_minor)
