"""A small bank whose books are right, for tests that put one lie into them."""

from __future__ import annotations

from tests.chaos.books import (
    ABORTED,
    COMMITTED,
    PREPARED,
    SUCCESS,
    Account,
    Books,
    BranchRow,
    Decision,
    Entry,
    Hold,
    Ledger,
    Order,
    Trade,
)
from tests.chaos.history import (
    Attempt,
    Heard,
    History,
    Kind,
    Leg,
    Read,
    Request,
    asks,
    hears,
    reads,
)

FUND = Request("fund", Kind.FUND, "EUR", (Leg("bank", "alice", 1_000),))
PAYMENT = Request("pay", Kind.PAYMENT, "EUR", (Leg("alice", "bob", 300),), trade_no="trade-1")
REFUSED = Request("too-much", Kind.TRANSFER, "EUR", (Leg("bob", "alice", 9_000),))
SPLIT = Request("split", Kind.SPLIT, "EUR", (Leg("alice", "bob", 10), Leg("alice", "carol", 20)))
REASON = "INSUFFICIENT_FUNDS"
_TXN = {"fund": "t1", "pay": "t2", "too-much": "t3", "split": "t4"}


def told(history: History, request: Request, heard: Heard, why: str = "", txn: str = "") -> None:
    """One attempt that was answered."""
    attempt = ask(history, request)
    attempt.heard, attempt.why = heard, why
    attempt.txn_id = txn or _TXN.get(request.key, "")
    history.add(hears(attempt))


def ask(history: History, request: Request, *, clash: bool = False) -> Attempt:
    """One attempt that was not."""
    number = len(history.attempts.get(request.key, ()))
    attempt = Attempt(number, request, asked_s=float(number), clash=clash)
    history.add(asks(attempt))
    return attempt


def honest_history() -> History:
    """A payment after a lost answer, a refusal, a split transfer; each asked again or seen."""
    history = History()
    told(history, FUND, Heard.COMMITTED)
    ask(history, PAYMENT)
    told(history, PAYMENT, Heard.PENDING)
    told(history, PAYMENT, Heard.COMMITTED)
    told(history, PAYMENT, Heard.COMMITTED)
    history.add(reads(Read("pay", "trade-1", SUCCESS)))
    told(history, REFUSED, Heard.ABORTED, REASON)
    told(history, SPLIT, Heard.COMMITTED)
    return history


def honest_books() -> Books:
    """What all of that comes to."""
    entries = [
        Entry("t1", "ledger", "fund", "bank", "alice", 1_000),
        Entry("t2", "ledger", "trade-1", "alice", "bob", 300),
        Entry("t4", "ledger", "split", "alice", "bob", 10),
        Entry("t4", "ledger1", "split", "alice", "carol", 20),
    ]
    ledger = Ledger(
        accounts=[
            Account("bank", "EUR", -(10**9), -1_000, 0),
            Account("alice", "EUR", 0, 670, 0),
            Account("bob", "EUR", 0, 310, 0),
            Account("carol", "EUR", 0, 20, 0),
        ],
        entries=entries,
        branches=[
            BranchRow("t2", "ledger", COMMITTED),
            BranchRow("t3", "ledger", ABORTED),
        ],
        posted={"bank": -1_000, "alice": 670, "bob": 310, "carol": 20},
        last_entry_id=4,
    )
    order = Order(
        trades=[Trade("trade-1", SUCCESS, "t2", 300, "bob", "alice")],
        branches=[BranchRow("t2", "order", COMMITTED)],
    )
    decisions = [
        Decision("t1", COMMITTED, "fund", "", 1),
        Decision("t2", COMMITTED, "pay", "", 1),
        Decision("t3", ABORTED, "too-much", REASON, 1),
        Decision("t4", COMMITTED, "split", "", 1),
    ]
    return Books(ledger, order, {row.txn_id: row for row in decisions})


def held(books: Books, txn_id: str = "t9", amount_minor: int = 5) -> None:
    """A payment of alice's is prepared at the ledger."""
    books.ledger.holds.append(Hold(txn_id, "ledger", "alice", amount_minor))
    books.ledger.branches.append(BranchRow(txn_id, "ledger", PREPARED))
    books.ledger.accounts = [
        account._replace(held_minor=account.held_minor + amount_minor)
        if account.account_id == "alice"
        else account
        for account in books.ledger.accounts
    ]
