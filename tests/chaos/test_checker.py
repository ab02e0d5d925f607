"""The checker itself: books that are right pass, and each lie in them is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.books import (
    ABORTED,
    COMMITTED,
    PENDING,
    PREPARED,
    Books,
    BranchRow,
    Decision,
    Entry,
    Trade,
)
from tests.chaos.checker import check
from tests.chaos.findings import INVARIANTS
from tests.chaos.forgery import (
    FUND,
    PAYMENT,
    REASON,
    REFUSED,
    ask,
    held,
    honest_books,
    honest_history,
    told,
)
from tests.chaos.history import Heard, History, Kind, Leg, Read, Request, hears, reads
from tests.chaos.money import other_body

Lie = Callable[[History, Books], None]


def test_books_that_are_right_pass() -> None:
    """Nothing is found, and everything that can be was looked at."""
    found = check(honest_history(), honest_books())
    assert [] == found.violations
    assert {"I1", "I2", "I3", "I4", "I5"} <= set(found.looked)


def _account(books: Books, name: str, **changes: Any) -> None:
    books.ledger.accounts = [
        each._replace(**changes) if each.account_id == name else each
        for each in books.ledger.accounts
    ]


def _money_is_made(history: History, books: Books) -> None:
    """A balance rises, and its posting with it."""
    _account(books, "bob", posted_minor=311)
    books.ledger.posted["bob"] = 311


def _balance_without_posting(history: History, books: Books) -> None:
    """Two balances change that the journal says nothing of."""
    _account(books, "bob", posted_minor=311)
    _account(books, "alice", posted_minor=669)


def _below_the_limit(history: History, books: Books) -> None:
    """More is held than there is."""
    held(books, amount_minor=671)


def _held_for_nobody(history: History, books: Books) -> None:
    """What an account holds has no hold."""
    _account(books, "alice", held_minor=7)


def _one_sided_entry(history: History, books: Books) -> None:
    """An entry's postings do not sum to zero."""
    books.ledger.entries[1] = books.ledger.entries[1]._replace(sum_minor=3)


def _moved_elsewhere(history: History, books: Books) -> None:
    """Money went to another account than was asked, balances and postings agree."""
    books.ledger.entries[3] = books.ledger.entries[3]._replace(credit="bob")
    _account(books, "bob", posted_minor=330)
    _account(books, "carol", posted_minor=0)
    books.ledger.posted |= {"bob": 330, "carol": 0}


def _paid_in_order_only(history: History, books: Books) -> None:
    """A trade is paid, and no money has moved."""
    books.order.trades.append(Trade("trade-2", "TRADE_SUCCESS", "t8", 5, "bob", "alice"))


def _paid_in_ledger_only(history: History, books: Books) -> None:
    """The money has moved, and the trade waits for its payer."""
    books.order.trades[0] = books.order.trades[0]._replace(state="WAIT_BUYER_PAY", txn_id="")


def _posted_another_amount(history: History, books: Books) -> None:
    """The trade's amount is not that of its entry."""
    books.order.trades[0] = books.order.trades[0]._replace(amount_minor=299)


def _committed_branch_of_an_abort(history: History, books: Books) -> None:
    """A participant has committed what was aborted."""
    books.order.branches.append(BranchRow("t3", "order", COMMITTED))


def _aborted_branch_of_a_commit(history: History, books: Books) -> None:
    """A participant has aborted what was committed."""
    books.ledger.branches[0] = BranchRow("t2", "ledger", ABORTED)


def _commit_without_effect(history: History, books: Books) -> None:
    """The log has a commit, and the journal nothing."""
    books.decisions["t5"] = Decision("t5", COMMITTED, "", "", 1)


def _effect_without_commit(history: History, books: Books) -> None:
    """The journal has what was never decided."""
    del books.decisions["t4"]


def _two_answers(history: History, books: Books) -> None:
    """A key that was committed is answered with an abort."""
    told(history, PAYMENT, Heard.ABORTED, REASON)


def _two_reasons(history: History, books: Books) -> None:
    """An abort is answered with another reason."""
    told(history, REFUSED, Heard.ABORTED, "PARTICIPANT_UNAVAILABLE")


def _two_transactions(history: History, books: Books) -> None:
    """A repeated request is answered with another transaction."""
    told(history, PAYMENT, Heard.COMMITTED, txn="t7")


def _answer_lost_from_the_log(history: History, books: Books) -> None:
    """What a client was told has no row any more."""
    del books.decisions["t3"]


def _claim_never_resolved(history: History, books: Books) -> None:
    """What was answered is, in the log, only asked for."""
    books.decisions["t1"] = books.decisions["t1"]._replace(outcome=PENDING, ended=0)


def _answer_overwritten(history: History, books: Books) -> None:
    """The log says COMMITTED to whom an abort was answered."""
    books.decisions["t3"] = Decision("t3", COMMITTED, "too-much", "", 1)


def _never_answered(history: History, books: Books) -> None:
    """Somebody has asked, and heard nothing to the end."""
    ask(history, Request("silence", Kind.TRANSFER, "EUR", (Leg("alice", "bob", 1),)))


def _seen_unpaid(history: History, books: Books) -> None:
    """A trade whose payment was answered is seen waiting for it."""
    history.add(reads(Read("pay", "trade-1", "WAIT_BUYER_PAY")))


def _effect_twice(history: History, books: Books) -> None:
    """A payment is applied twice, and everything adds up."""
    books.ledger.entries.append(Entry("t2", "ledger", "trade-1", "alice", "bob", 300))
    _account(books, "alice", posted_minor=370)
    _account(books, "bob", posted_minor=610)
    books.ledger.posted |= {"alice": 370, "bob": 610}


def _key_with_two_rows(history: History, books: Books) -> None:
    """A key was decided twice."""
    books.decisions["t6"] = Decision("t6", ABORTED, "pay", REASON, 1)


def _half_a_split(history: History, books: Books) -> None:
    """Of two branches at one participant one was applied."""
    del books.ledger.entries[3]


def _clash_succeeds(history: History, books: Books) -> None:
    """The same key with another body gets the old success."""
    attempt = ask(history, other_body(PAYMENT), clash=True)
    attempt.heard, attempt.txn_id = Heard.COMMITTED, "t2"
    history.add(hears(attempt))


def _nobody_asked(history: History, books: Books) -> None:
    """The journal has an entry that nobody has asked for."""
    books.ledger.entries.append(Entry("t1", "ledger9", "thin-air", "alice", "bob", 1))


def _row_nobody_asked(history: History, books: Books) -> None:
    """The log has a key that nobody has asked under."""
    books.decisions["t5"] = Decision("t5", ABORTED, "thin-air", REASON, 1)


def _trade_paid_twice(history: History, books: Books) -> None:
    """Two keys have paid one trade, each once."""
    rival = Request("rival", Kind.PAYMENT, "EUR", PAYMENT.legs, trade_no="trade-1")
    told(history, rival, Heard.COMMITTED, txn="t5")
    books.decisions["t5"] = Decision("t5", COMMITTED, "rival", "", 1)
    books.ledger.entries.append(Entry("t5", "ledger", "trade-1", "alice", "bob", 300))
    _account(books, "alice", posted_minor=370)
    _account(books, "bob", posted_minor=610)
    books.ledger.posted |= {"alice": 370, "bob": 610}


def _still_held(history: History, books: Books) -> None:
    """Something is held when everything is over."""
    held(books)


def _still_paying(history: History, books: Books) -> None:
    """A trade is being paid when everything is over."""
    books.order.trades.append(Trade("trade-2", "PAYING", "t9", 5, "bob", "alice"))


def _still_in_doubt(history: History, books: Books) -> None:
    """A branch is prepared when everything is over."""
    books.order.branches.append(BranchRow("t9", "order", PREPARED))


LIES: list[tuple[str, Lie]] = [
    ("I1", _money_is_made),
    ("I1", _balance_without_posting),
    ("I1", _below_the_limit),
    ("I1", _held_for_nobody),
    ("I1", _one_sided_entry),
    ("I1", _moved_elsewhere),
    ("I2", _paid_in_order_only),
    ("I2", _paid_in_ledger_only),
    ("I2", _posted_another_amount),
    ("I2", _committed_branch_of_an_abort),
    ("I2", _aborted_branch_of_a_commit),
    ("I2", _commit_without_effect),
    ("I2", _effect_without_commit),
    ("I3", _two_answers),
    ("I3", _two_reasons),
    ("I3", _two_transactions),
    ("I3", _answer_lost_from_the_log),
    ("I3", _answer_overwritten),
    ("I3", _claim_never_resolved),
    ("I3", _never_answered),
    ("I3", _seen_unpaid),
    ("I4", _effect_twice),
    ("I4", _key_with_two_rows),
    ("I4", _half_a_split),
    ("I4", _clash_succeeds),
    ("I4", _nobody_asked),
    ("I4", _row_nobody_asked),
    ("I4", _trade_paid_twice),
    ("I5", _still_held),
    ("I5", _still_paying),
    ("I5", _still_in_doubt),
]


@pytest.mark.parametrize(
    ("invariant", "lie"), LIES, ids=lambda each: getattr(each, "__name__", each)
)
def test_a_lie_in_the_books_is_found(invariant: str, lie: Lie) -> None:
    """Each breaks its invariant, whatever else it breaks."""
    history, books = honest_history(), honest_books()
    lie(history, books)
    found = check(history, books)
    assert invariant in found.broken
    assert invariant in INVARIANTS


def test_what_a_killed_client_heard_nothing_of_may_have_happened() -> None:
    """An attempt without an answer, before one with it, is no violation."""
    history = History()
    ask(history, FUND)
    told(history, FUND, Heard.ERROR, "UNAVAILABLE")
    assert ["fund"] == list(history.open_keys())
    told(history, FUND, Heard.COMMITTED)
    assert [] == list(history.open_keys())
