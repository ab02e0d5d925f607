"""Journals: what is read back is what was written, also after a kill."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.client import Journal
from tests.chaos.crowd import Reader
from tests.chaos.forgery import FUND, PAYMENT, honest_history
from tests.chaos.history import Heard, History, Kind, Leg, Request, asks


def test_a_journal_says_what_was_open_when_its_writer_died(tmp_path: Path) -> None:
    """Whoever comes next knows the request, the key and the number of attempts."""
    first = Journal(tmp_path / "journal", History())
    first.attempt(PAYMENT)
    done = first.attempt(FUND)
    done.heard, done.txn_id = Heard.COMMITTED, "t1"
    first.heard(done)
    second = Journal(tmp_path / "journal", History())
    assert ["pay"] == list(second.history.open_keys())
    assert PAYMENT == second.history.requests["pay"]
    assert 1 == second.attempt(PAYMENT).number


def test_a_line_that_a_kill_has_torn_harms_no_other(tmp_path: Path) -> None:
    """It is counted, and what the next writer writes stands in lines of its own."""
    path = tmp_path / "journal"
    whole = asks(honest_history().attempts["fund"][0])
    path.write_text(whole + whole[:40])
    journal = Journal(path, History())
    journal.attempt(PAYMENT)
    again = Journal(path, History())
    assert ({"fund", "pay"}, 1) == (set(again.history.requests), again.history.torn)


def test_a_reader_reads_along(tmp_path: Path) -> None:
    """Whole lines only, each once."""
    path = tmp_path / "journal"
    reader = Reader(History())
    reader.read([path])
    line = asks(honest_history().attempts["fund"][0])
    path.write_text(line + line[:10])
    reader.read([path])
    reader.read([path])
    assert 1 == len(reader.history.attempts["fund"])


def test_payments_are_counted_once_and_funds_are_none() -> None:
    """However often the answer is repeated."""
    assert 2 == honest_history().paid
    assert {"fund", "pay", "split"} == {each.key for each in honest_history().committed()}


def test_keys_are_as_the_log_has_them() -> None:
    """A payment of the wallet has the wallet's name before its own."""
    legs = (Leg("user:ann", "user:bob", 1),)
    request = Request("k", Kind.WALLET, "EUR", legs, user_id="ann", trade_no="t")
    assert ("pay:ann:k", "t") == (request.log_key, request.reference)
    assert ("fund", "fund") == (FUND.log_key, FUND.reference)
