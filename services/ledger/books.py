"""The books as SQL: every statement that reads or changes an account, a hold or the journal.

Each function runs inside the caller's local transaction. A credit raises a balance, a
debit lowers it; an entry's postings sum to zero. The table's own CHECK says once more
that available = posted - held never goes below the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.money import CurrencyCode, Money
from txn.model import BranchKey, TxnId
from txn.store.sql import Sql, select_in, write_rows
from txn.value import value


@value
class Account:
    """One account; amounts in minor units of its currency."""

    account_id: str
    currency_code: CurrencyCode
    limit_minor: int
    posted_minor: int
    held_minor: int
    created_at_us: int

    @property
    def available_minor(self) -> int:
        """What may still be spent, the limit aside."""
        return self.posted_minor - self.held_minor


@dataclass(frozen=True, slots=True)
class Posting:
    """One line of an entry; credits are positive, debits negative."""

    account_id: str
    currency_code: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One journal entry."""

    entry_id: int
    txn_id: str
    reference: str
    posted_at_us: int
    postings: tuple[Posting, ...]


@dataclass(frozen=True, slots=True)
class TrialBalanceLine:
    """One currency's sums; see the proto."""

    currency_code: str
    debit_minor: int
    credit_minor: int
    posted_minor: int
    held_minor: int
    mismatched_accounts: int

    @property
    def balanced(self) -> bool:
        """Whether the journal and the accounts agree with each other and with zero."""
        return (
            self.credit_minor == self.debit_minor
            and self.posted_minor == 0
            and self.mismatched_accounts == 0
        )


def open_account(tx: Sql, account: Account) -> Account:
    """Opens the account unless it is open; returns the one that stands."""
    tx.execute(
        "INSERT INTO account (account_id, currency_code, limit_minor, created_at_us) "
        "VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (account.account_id, account.currency_code, account.limit_minor, account.created_at_us),
    )
    opened = find_account(tx, account.account_id)
    assert opened is not None
    return opened


def find_account(tx: Sql, account_id: str) -> Account | None:
    """The account of that name."""
    return find_accounts(tx, [account_id]).get(account_id)


def find_accounts(tx: Sql, account_ids: Sequence[str]) -> Mapping[str, Account]:
    """Those accounts that there are."""
    rows = select_in(
        tx,
        "SELECT account_id, currency_code, limit_minor, posted_minor, held_minor, created_at_us "
        "FROM account WHERE account_id IN",
        account_ids,
    )
    return {row[0]: Account(*row) for row in rows}


@value
class Hold:
    """What a prepared branch has reserved."""

    key: BranchKey
    debit_account_id: str
    credit_account_id: str
    amount_minor: int


def place_holds(tx: Sql, holds: Sequence[Hold]) -> None:
    """Reserves on the debited accounts; the caller has checked that it is there."""
    write_rows(
        tx,
        "INSERT INTO hold (txn_id, branch_id, debit_account_id, credit_account_id, amount_minor) "
        "{rows}",
        [
            (*hold.key, hold.debit_account_id, hold.credit_account_id, hold.amount_minor)
            for hold in holds
        ],
        "text, text, text, text, bigint",
    )
    changes = _Changes()
    for hold in holds:
        changes.add(hold.debit_account_id, held_minor=hold.amount_minor)
    changes.write(tx)


def youngest_hold(tx: Sql, account_id: str) -> TxnId | None:
    """The youngest transaction with a hold on an account, where there is one."""
    (txn_id,) = tx.execute(
        "SELECT MAX(txn_id) FROM hold WHERE debit_account_id = ?", (account_id,)
    ).fetchone()
    return None if txn_id is None else TxnId(txn_id)


def take_holds(tx: Sql, keys: Sequence[BranchKey]) -> list[Hold]:
    """Removes the holds of branches and returns them. Raises LookupError when one is missing."""
    rows = select_in(
        tx,
        "SELECT txn_id, branch_id, debit_account_id, credit_account_id, amount_minor FROM hold "
        "WHERE txn_id IN",
        list(dict.fromkeys([key.txn_id for key in keys])),
    )
    found = {BranchKey(*row[:2]): row[2:] for row in rows}
    holds = []
    for key in keys:
        if key not in found:
            raise LookupError(f"{key} holds nothing")
        holds.append(Hold(key, *found[key]))
    write_rows(
        tx,
        "DELETE FROM hold WHERE (txn_id, branch_id) IN "
        "(SELECT column1, column2 FROM ({rows}) AS taken)",
        keys,
        "text, text",
    )
    return holds


def post_holds(tx: Sql, holds: Sequence[tuple[Hold, Money, str]], posted_at_us: int) -> None:
    """Turns holds that were taken into journal entries, of the reference beside each."""
    changes = _Changes()
    (newest,) = tx.execute("SELECT COALESCE(MAX(entry_id), 0) FROM journal_entry").fetchone()
    entries, postings = [], []
    for entry_id, (hold, money, reference) in enumerate(holds, newest + 1):
        amount_minor, code = money.amount_minor, money.currency_code
        if amount_minor != hold.amount_minor:
            raise ValueError(f"{hold.key} holds another amount")
        debit, credit = hold.debit_account_id, hold.credit_account_id
        changes.add(debit, posted_minor=-amount_minor, held_minor=-amount_minor)
        changes.add(credit, posted_minor=amount_minor)
        entries.append((entry_id, *hold.key, reference, posted_at_us))
        postings.append((entry_id, 1, debit, code, -amount_minor))
        postings.append((entry_id, 2, credit, code, amount_minor))
    changes.write(tx)
    kinds = "bigint, text, text, text, bigint"
    columns = "entry_id, txn_id, branch_id, reference, posted_at_us"
    write_rows(tx, f"INSERT INTO journal_entry ({columns}) {{rows}}", entries, kinds)
    kinds = "bigint, integer, text, text, bigint"
    columns = "entry_id, line, account_id, currency_code, amount_minor"
    write_rows(tx, f"INSERT INTO posting ({columns}) {{rows}}", postings, kinds)


def void_holds(tx: Sql, holds: Sequence[Hold]) -> None:
    """Gives back what was held by holds that were taken."""
    changes = _Changes()
    for hold in holds:
        changes.add(hold.debit_account_id, held_minor=-hold.amount_minor)
    changes.write(tx)


class _Changes:
    """What a batch changes of each account: one update, however many items touch it."""

    def __init__(self) -> None:
        self._by_account: dict[str, tuple[int, int]] = {}

    def add(self, account_id: str, *, posted_minor: int = 0, held_minor: int = 0) -> None:
        """Takes one more change into account."""
        posted, held = self._by_account.get(account_id, (0, 0))
        self._by_account[account_id] = (posted + posted_minor, held + held_minor)

    def write(self, tx: Sql) -> None:
        """Changes the accounts."""
        write_rows(
            tx,
            "UPDATE account SET posted_minor = posted_minor + column1, "
            "held_minor = held_minor + column2 FROM ({rows}) AS change "
            "WHERE account_id = column3",
            [(posted, held, name) for name, (posted, held) in self._by_account.items()],
            "bigint, bigint, text",
        )


def list_entries(
    tx: Sql, *, account_id: str, txn_id: str, after: int, limit: int
) -> Sequence[Entry]:
    """Entries above `after`, ascending; of one account or one transaction only, if named."""
    # Only the conditions that are asked for, so that their indexes are used.
    condition = ""
    named = []
    if txn_id:
        condition += "AND txn_id = ? "
        named.append(txn_id)
    if account_id:
        condition += "AND entry_id IN (SELECT entry_id FROM posting WHERE account_id = ?)"
        named.append(account_id)
    rows = tx.execute(
        "SELECT entry_id, txn_id, reference, posted_at_us FROM journal_entry "
        f"WHERE entry_id > ? {condition} ORDER BY entry_id LIMIT ?",
        (after, *named, limit),
    ).fetchall()
    return [
        Entry(entry_id, txn_id, reference, posted_at_us, _postings(tx, entry_id))
        for entry_id, txn_id, reference, posted_at_us in rows
    ]


def _postings(tx: Sql, entry_id: int) -> tuple[Posting, ...]:
    rows = tx.execute(
        "SELECT account_id, currency_code, amount_minor FROM posting "
        "WHERE entry_id = ? ORDER BY line",
        (entry_id,),
    )
    return tuple(Posting(*row) for row in rows)


def trial_balance(tx: Sql) -> Sequence[TrialBalanceLine]:
    """Sums over the whole journal, compared with every account."""
    rows = tx.execute(
        """
        WITH journal AS (
            SELECT account_id, SUM(amount_minor) AS posted,
                   SUM(CASE WHEN amount_minor < 0 THEN -amount_minor ELSE 0 END) AS debit,
                   SUM(CASE WHEN amount_minor > 0 THEN amount_minor ELSE 0 END) AS credit
            FROM posting GROUP BY account_id
        ), held AS (
            SELECT debit_account_id AS account_id, SUM(amount_minor) AS held
            FROM hold GROUP BY debit_account_id
        )
        SELECT a.currency_code, COALESCE(SUM(j.debit), 0), COALESCE(SUM(j.credit), 0),
               SUM(a.posted_minor), SUM(a.held_minor),
               SUM(CASE WHEN a.posted_minor <> COALESCE(j.posted, 0)
                          OR a.held_minor <> COALESCE(h.held, 0) THEN 1 ELSE 0 END)
        FROM account a LEFT JOIN journal j USING (account_id) LEFT JOIN held h USING (account_id)
        GROUP BY a.currency_code ORDER BY a.currency_code
        """
    )
    # A sum of PostgreSQL's is a Decimal.
    return [TrialBalanceLine(row[0], *map(int, row[1:])) for row in rows]
