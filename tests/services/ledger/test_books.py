"""The books: holds, postings, and the proof that they are right."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from tallystick.ledger.v1 import ledger_service_pb2 as pb
from tallystick.type.v1 import money_pb2

from services.ledger import books
from services.ledger.books import Account, TrialBalanceLine
from services.ledger.transfer import (
    ACCOUNT_NOT_FOUND,
    BALANCE_LIMIT,
    CURRENCY_MISMATCH,
    INSUFFICIENT_FUNDS,
    TransferResource,
)
from services.money import AMOUNT_MAX_MINOR, BALANCE_MAX_MINOR, CurrencyCode
from services.store import own_schema
from tests.services.rig import open_store
from tests.support.postgres import PostgresServer
from tests.txn.helpers import FastClock, key
from txn.errors import Busy, Refused
from txn.resource import Item
from txn.state import Vote
from txn.store.group_commit import Store
from txn.store.migrate import apply
from txn.store.sql import Sql

EUR = CurrencyCode("EUR")
LIMIT_MIN = -(10**18)
INTEGRITY_ERRORS = (sqlite3.IntegrityError, psycopg.IntegrityError)
FUNDS_BUSY = f"{INSUFFICIENT_FUNDS}, busy"


def _reason(vote: Vote | Refused | Busy) -> str:
    if isinstance(vote, Busy):
        return f"{vote.reason}, busy"
    return vote.reason if isinstance(vote, Refused) else ""


class Ledger:
    """A store of books with the three moves of a transfer."""

    def __init__(self, store: Store[Sql]) -> None:
        self.store = store
        self.resource = TransferResource(FastClock())

    async def open(self, account_id: str, limit_minor: int = 0, code: str = "EUR") -> Account:
        """An account."""
        account = Account(account_id, CurrencyCode(code), limit_minor, 0, 0, 1)
        return await self.store.write(lambda tx: books.open_account(tx, account))

    async def find(self, account_id: str) -> Account:
        """The account as it stands."""
        account = await self.store.read(lambda tx: books.find_account(tx, account_id))
        assert account is not None
        return account

    async def balances(self, account_id: str) -> tuple[int, int, int]:
        """Posted, held, available."""
        account = await self.find(account_id)
        return account.posted_minor, account.held_minor, account.available_minor

    async def prepare(self, txn_id: str, operation: pb.TransferOperation) -> str:
        """Places a hold; the reason when refused, else nothing."""
        items = [Item(key(txn_id), operation)]
        (vote,) = await self.store.write(lambda tx: self.resource.prepare_all(tx, items))
        return _reason(vote)

    async def commit(self, txn_id: str, operation: pb.TransferOperation) -> None:
        """Posts the hold."""
        items = [Item(key(txn_id), operation)]
        await self.store.write(lambda tx: self.resource.commit_all(tx, items))

    async def abort(self, txn_id: str, operation: pb.TransferOperation) -> None:
        """Voids the hold."""
        items = [Item(key(txn_id), operation)]
        await self.store.write(lambda tx: self.resource.abort_all(tx, items))

    async def pay(self, txn_id: str, operation: pb.TransferOperation) -> str:
        """Hold and posting."""
        if reason := await self.prepare(txn_id, operation):
            return reason
        await self.commit(txn_id, operation)
        return ""

    async def trial(self) -> TrialBalanceLine:
        """The proof of the one currency."""
        [line] = await self.store.read(books.trial_balance)
        return line

    async def corrupt(self, statement: str) -> None:
        """Changes the books behind their back."""
        await self.store.write(lambda tx: tx.execute(statement))


def transfer(
    amount_minor: int, debit: str = "payer", credit: str = "payee", code: str = "EUR"
) -> pb.TransferOperation:
    """A transfer."""
    return pb.TransferOperation(
        debit_account_id=debit,
        credit_account_id=credit,
        amount=money_pb2.Money(currency_code=code, amount_minor=amount_minor),
        reference="ref",
    )


@pytest_asyncio.fixture
async def ledger(tmp_path: Path, database: PostgresServer | None) -> AsyncIterator[Ledger]:
    """Books with a bank that may be overdrawn, a payer who has 100, and a payee."""
    async with open_store("ledger", tmp_path, database) as store:
        ledger = Ledger(store)
        await ledger.open("bank", LIMIT_MIN)
        await ledger.open("payer")
        await ledger.open("payee")
        assert "" == await ledger.pay("funding", transfer(100, "bank", "payer"))
        yield ledger


async def test_a_hold_reduces_what_is_available(ledger: Ledger) -> None:
    """Posted stays until commit; the payee sees nothing of it before."""
    assert "" == await ledger.prepare("t1", transfer(30))
    assert (100, 30, 70) == await ledger.balances("payer")
    assert (0, 0, 0) == await ledger.balances("payee")


async def test_posting_a_hold(ledger: Ledger) -> None:
    """The hold becomes an entry with a debit and a credit."""
    await ledger.pay("t1", transfer(30))
    assert (70, 0, 70) == await ledger.balances("payer")
    assert (30, 0, 30) == await ledger.balances("payee")
    [entry] = await ledger.store.read(
        lambda tx: books.list_entries(tx, account_id="", txn_id="t1", after=0, limit=9)
    )
    postings = [(p.account_id, p.currency_code, p.amount_minor) for p in entry.postings]
    assert [("payer", "EUR", -30), ("payee", "EUR", 30)] == postings
    assert "ref" == entry.reference


async def test_voiding_a_hold(ledger: Ledger) -> None:
    """Everything is as before, and no entry is left."""
    await ledger.prepare("t1", transfer(30))
    await ledger.abort("t1", transfer(30))
    assert (100, 0, 100) == await ledger.balances("payer")
    assert [] == await ledger.store.read(
        lambda tx: books.list_entries(tx, account_id="payee", txn_id="", after=0, limit=9)
    )


async def test_exact_funds(ledger: Ledger) -> None:
    """The last cent may be spent, and none beyond it; what others hold may come free."""
    assert INSUFFICIENT_FUNDS == await ledger.prepare("t1", transfer(101))
    assert "" == await ledger.prepare("t2", transfer(100))
    assert FUNDS_BUSY == await ledger.prepare("t3", transfer(1))
    assert INSUFFICIENT_FUNDS == await ledger.prepare("t0", transfer(1))
    await ledger.abort("t2", transfer(100))
    assert "" == await ledger.prepare("t4", transfer(1))


async def test_what_is_held_counts_against_the_limit(ledger: Ledger) -> None:
    """Two holds share one balance, and an overdraft reaches just as far as allowed."""
    await ledger.open("overdrawn", -50)
    assert "" == await ledger.prepare("t1", transfer(30, "overdrawn"))
    assert FUNDS_BUSY == await ledger.prepare("t2", transfer(21, "overdrawn"))
    assert INSUFFICIENT_FUNDS == await ledger.prepare("t2", transfer(51, "overdrawn"))
    assert "" == await ledger.prepare("t3", transfer(20, "overdrawn"))
    assert (0, 50, -50) == await ledger.balances("overdrawn")


async def test_a_credit_that_is_not_posted_cannot_be_spent(ledger: Ledger) -> None:
    """A prepared payment is not yet the payee's money."""
    await ledger.prepare("t1", transfer(100))
    assert INSUFFICIENT_FUNDS == await ledger.prepare("t2", transfer(1, "payee", "payer"))


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (transfer(1, debit="nobody"), ACCOUNT_NOT_FOUND),
        (transfer(1, credit="nobody"), ACCOUNT_NOT_FOUND),
        (transfer(1, code="USD"), CURRENCY_MISMATCH),
        (transfer(1, credit="yen"), CURRENCY_MISMATCH),
        (transfer(1, debit="yen"), CURRENCY_MISMATCH),
        (transfer(1_000, credit="yen"), CURRENCY_MISMATCH),
        (transfer(1_000), INSUFFICIENT_FUNDS),
        (transfer(1_000, credit="full"), INSUFFICIENT_FUNDS),
        (transfer(1, credit="full"), BALANCE_LIMIT),
    ],
)
async def test_refusals(ledger: Ledger, operation: pb.TransferOperation, reason: str) -> None:
    """Each reason, in the order in which they take precedence; nothing is held for any."""
    await ledger.open("yen", 0, "JPY")
    await ledger.open("full")
    await ledger.corrupt(
        f"UPDATE account SET posted_minor = {BALANCE_MAX_MINOR} WHERE account_id = 'full'"
    )
    assert reason == await ledger.prepare("t1", operation)
    assert (100, 0, 100) == await ledger.balances("payer")


async def test_the_largest_amounts(ledger: Ledger) -> None:
    """At the edge of what is allowed every sum is still exact."""
    await ledger.open("rich")
    await ledger.corrupt(
        f"UPDATE account SET posted_minor = {BALANCE_MAX_MINOR - 2 * AMOUNT_MAX_MINOR} "
        "WHERE account_id = 'rich'"
    )
    for txn_id in ("t1", "t2", "t3"):
        assert "" == await ledger.prepare(txn_id, transfer(AMOUNT_MAX_MINOR, "bank", "rich"))
    for txn_id in ("t1", "t2", "t3"):
        await ledger.commit(txn_id, transfer(AMOUNT_MAX_MINOR, "bank", "rich"))
    assert BALANCE_MAX_MINOR + AMOUNT_MAX_MINOR == (await ledger.find("rich")).posted_minor
    assert BALANCE_LIMIT == await ledger.prepare("t4", transfer(1, "bank", "rich"))


async def test_the_table_itself_keeps_the_limit(ledger: Ledger) -> None:
    """Were the code above it wrong, SQLite would refuse: available is never below the limit."""
    with pytest.raises(INTEGRITY_ERRORS):
        await ledger.corrupt("UPDATE account SET posted_minor = -1 WHERE account_id = 'payer'")
    with pytest.raises(INTEGRITY_ERRORS):
        await ledger.corrupt("UPDATE account SET held_minor = 101 WHERE account_id = 'payer'")
    with pytest.raises(INTEGRITY_ERRORS):
        await ledger.corrupt("UPDATE account SET held_minor = -1 WHERE account_id = 'payer'")


async def test_credits_do_not_wait_for_each_other(ledger: Ledger) -> None:
    """Many payments to one account are prepared at once, and every one is posted."""
    for number in range(40):
        await ledger.open(f"user{number}", -10)
    operations = {f"t{n}": transfer(10, f"user{n}", "payee") for n in range(40)}
    prepared = await asyncio.gather(*[ledger.prepare(t, op) for t, op in operations.items()])
    assert {""} == set(prepared)
    await asyncio.gather(*[ledger.commit(t, op) for t, op in operations.items()])
    assert (400, 0, 400) == await ledger.balances("payee")
    assert (await ledger.trial()).balanced


async def test_debits_at_once_do_not_overdraw(ledger: Ledger) -> None:
    """Of many at once exactly as many succeed as there is money for."""
    reasons = await asyncio.gather(*[ledger.pay(f"t{n}", transfer(30)) for n in range(20)])
    refused = reasons.count(INSUFFICIENT_FUNDS) + reasons.count(FUNDS_BUSY)
    assert (3, 17) == (reasons.count(""), refused)
    assert (10, 0, 10) == await ledger.balances("payer")


async def test_an_account_is_opened_once(ledger: Ledger) -> None:
    """A repeated request finds the account as it stands and changes nothing of it."""
    again = await ledger.open("payer", -5, "USD")
    assert ("EUR", 0, 100) == (again.currency_code, again.limit_minor, again.posted_minor)


async def test_trial_balance_of_good_books(ledger: Ledger) -> None:
    """Debits equal credits, balances are the journal's, holds are the accounts'."""
    await ledger.pay("t1", transfer(10))
    await ledger.prepare("t2", transfer(20))
    expected = TrialBalanceLine("EUR", 110, 110, 0, 20, 0)
    assert (expected, True) == (await ledger.trial(), expected.balanced)


async def test_trial_balance_is_by_currency(ledger: Ledger) -> None:
    """A line for each currency, in the order of their codes."""
    await ledger.open("yen", 0, "JPY")
    lines = await ledger.store.read(books.trial_balance)
    assert ["EUR", "JPY"] == [line.currency_code for line in lines]
    assert all(line.balanced for line in lines)


async def test_no_accounts_balance(tmp_path: Path) -> None:
    """Empty books are right."""
    async with open_store("ledger", tmp_path) as store:
        assert [] == list(await store.read(books.trial_balance))


@pytest.mark.parametrize(
    "corruption",
    [
        "UPDATE account SET posted_minor = posted_minor + 1 WHERE account_id = 'payee'",
        "UPDATE account SET held_minor = held_minor + 1 WHERE account_id = 'payer'",
        "UPDATE account SET held_minor = 0 WHERE account_id = 'payer'",
        "DELETE FROM hold",
        "DELETE FROM posting WHERE line = 2",
        "DELETE FROM posting WHERE entry_id = 1",
        "UPDATE posting SET amount_minor = amount_minor + 1 WHERE entry_id = 1 AND line = 1",
        "UPDATE posting SET account_id = 'payee' WHERE entry_id = 1 AND line = 2",
        # Two accounts off by as much in opposite directions: sums alone would not show it.
        "UPDATE account SET posted_minor = posted_minor + CASE account_id "
        "WHEN 'payee' THEN 5 WHEN 'bank' THEN -5 ELSE 0 END",
    ],
)
async def test_trial_balance_finds_corruption(ledger: Ledger, corruption: str) -> None:
    """Whatever was changed behind the books' back shows."""
    await ledger.prepare("t1", transfer(20))
    assert (await ledger.trial()).balanced
    await ledger.corrupt(corruption)
    assert not (await ledger.trial()).balanced


async def test_entries_are_listed_by_account_transaction_and_page(ledger: Ledger) -> None:
    """In the order of posting, narrowed down as asked."""
    for number in range(3):
        await ledger.pay(f"t{number}", transfer(1))

    def listed(account_id: str = "", txn_id: str = "", after: int = 0, limit: int = 9) -> Any:
        return ledger.store.read(
            lambda tx: [
                entry.txn_id
                for entry in books.list_entries(
                    tx, account_id=account_id, txn_id=txn_id, after=after, limit=limit
                )
            ]
        )

    assert ["funding", "t0", "t1", "t2"] == await listed()
    assert ["t0", "t1", "t2"] == await listed(account_id="payee")
    assert ["t1"] == await listed(txn_id="t1")
    assert [] == await listed(txn_id="t1", account_id="bank")
    assert ["t0", "t1"] == await listed(after=1, limit=2)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["prepare", "commit", "abort"]),
        st.integers(0, 5),
        st.integers(1, 60),
        st.permutations(["bank", "a", "b"]),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(moves=MOVES)
def test_no_order_of_moves_breaks_the_books(
    moves: list[tuple[str, int, int, list[str]]],
) -> None:
    """After every single move the books balance and no account is below its limit."""
    tx = sqlite3.connect(":memory:", isolation_level=None)
    for component, migrations in own_schema("ledger").items():
        apply(tx, component, migrations)
    limits = {"bank": -100, "a": 0, "b": -20}
    for name, limit_minor in limits.items():
        books.open_account(tx, Account(name, EUR, limit_minor, 0, 0, 1))
    resource, held = TransferResource(FastClock()), dict[str, pb.TransferOperation]()
    for number, (verb, slot, amount_minor, names) in enumerate(moves):
        txn_id = f"t{slot}"
        if verb == "prepare" and txn_id not in held:
            operation = transfer(amount_minor, names[0], names[1])
            items = [Item(key(txn_id, str(number)), operation)]
            if [Vote.COMMIT] != resource.prepare_all(tx, items):
                continue
            held[txn_id] = operation
            branch_ids = dict(tx.execute("SELECT txn_id, branch_id FROM hold"))
        elif verb != "prepare" and txn_id in held:
            move = resource.commit_all if verb == "commit" else resource.abort_all
            move(tx, [Item(key(txn_id, branch_ids[txn_id]), held.pop(txn_id))])
        [line] = books.trial_balance(tx)
        assert line.balanced
        for name, limit_minor in limits.items():
            account = books.find_account(tx, name)
            assert account is not None
            assert account.available_minor >= limit_minor
    tx.close()


BATCH = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 60), st.permutations(["bank", "a", "b", "none"])),
    max_size=12,
    unique_by=lambda each: each[0],
)


@settings(max_examples=100)
@given(batches=st.lists(BATCH, max_size=3), commits=st.randoms(use_true_random=False))
def test_a_batch_is_what_its_items_are_one_after_the_other(
    batches: list[list[tuple[int, int, list[str]]]], commits: Random
) -> None:
    """The same votes, the same accounts, holds, entries and postings, in the same order."""
    together, alone = _two_books()
    resource = TransferResource(FastClock())
    for number, batch in enumerate(batches):
        items = [
            Item(key(f"t{number}{slot}"), transfer(amount_minor, names[0], names[1]))
            for slot, amount_minor, names in batch
        ]
        votes = resource.prepare_all(together, items)
        one_by_one = [resource.prepare_all(alone, [item])[0] for item in items]
        assert [*map(_reason, one_by_one)] == [*map(_reason, votes)]
        held = [item for item, vote in zip(items, votes, strict=True) if vote is Vote.COMMIT]
        paid = [item for item in held if commits.random() < 0.5]
        voided = [item for item in held if item not in paid]
        resource.commit_all(together, paid)
        resource.abort_all(together, voided)
        for item in paid:
            resource.commit_all(alone, [item])
        for item in voided:
            resource.abort_all(alone, [item])
        assert _tables(alone) == _tables(together)


def _two_books() -> tuple[sqlite3.Connection, sqlite3.Connection]:
    both = []
    for _ in range(2):
        tx = sqlite3.connect(":memory:", isolation_level=None)
        for component, migrations in own_schema("ledger").items():
            apply(tx, component, migrations)
        for name, limit_minor in {"bank": -100, "a": 0, "b": -20}.items():
            books.open_account(tx, Account(name, EUR, limit_minor, 0, 0, 1))
        both.append(tx)
    return both[0], both[1]


def _tables(tx: sqlite3.Connection) -> list[list[Any]]:
    names = ("account", "hold", "journal_entry", "posting")
    return [tx.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in names]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_hot_account_is_one_update_of_its_row(ledger: Ledger) -> None:
    """However many items of a batch touch an account, its row is changed once."""
    await ledger.open("lender", LIMIT_MIN)
    items = [Item(key(f"t{n}"), transfer(1, "lender")) for n in range(20)]
    await ledger.store.write(lambda tx: ledger.resource.prepare_all(tx, items))

    def commit(tx: Sql) -> list[tuple[str]]:
        tx.execute("CREATE TEMP TABLE touched (account_id TEXT)")
        tx.execute(
            "CREATE TEMP TRIGGER touch AFTER UPDATE ON account "
            "BEGIN INSERT INTO touched VALUES (new.account_id); END"
        )
        ledger.resource.commit_all(tx, items)
        return tx.execute("SELECT account_id FROM touched ORDER BY 1").fetchall()

    assert [("lender",), ("payee",)] == await ledger.store.write(commit)
    assert (20, 0, 20) == await ledger.balances("payee")


async def test_funds_that_earlier_items_hold_are_not_there_for_later_ones(ledger: Ledger) -> None:
    """The items of a batch see each other; one that is refused changes nothing."""
    await ledger.open("lender", -100)
    amounts = {"t1": 60, "t2": 60, "t3": 40, "t4": 1_000}
    items = [Item(key(name), transfer(amount, "lender")) for name, amount in amounts.items()]
    votes = await ledger.store.write(lambda tx: ledger.resource.prepare_all(tx, items))
    assert ["", FUNDS_BUSY, "", INSUFFICIENT_FUNDS] == [*map(_reason, votes)]
    assert (0, 100, -100) == await ledger.balances("lender")


async def test_a_hold_that_is_missing_fails_the_commit(ledger: Ledger) -> None:
    """What was never held is not posted, and nothing else of its batch is either."""
    await ledger.open("lender", -100)
    held = transfer(10, "lender")
    assert "" == await ledger.prepare("t1", held)
    items = [Item(key("t1"), held), Item(key("t2"), held)]
    with pytest.raises(LookupError):
        await ledger.store.write(lambda tx: ledger.resource.commit_all(tx, items))
    assert (0, 10, -10) == await ledger.balances("lender")
