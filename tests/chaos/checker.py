"""Holds what clients have heard against the books, when everything is over. Pure.

The books are taken as they stand in the services' files, not as a service tells them.
Invariants are named as in `findings.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from tests.chaos.books import (
    ABORTED,
    COMMITTED,
    MAY_BE_COMMITTED,
    PAYING,
    SUCCESS,
    Books,
    BranchRow,
    Decision,
    Entry,
    Ledger,
)
from tests.chaos.findings import Findings
from tests.chaos.history import FINAL, Heard, History, Request


def check(history: History, books: Books) -> Findings:
    """Everything that can be said at the end; I5 is what `Books.unfinished` says then."""
    found = Findings()
    check_accounts(found, books.ledger)
    _check_answers(found, history)
    _check_books(found, books)
    _check_effects(found, history, books)
    _check_balances(found, history, books.ledger)
    left = books.unfinished()
    found.check("I5", not left, f"at the end there is {', '.join(left[:5])}")
    return found


def check_accounts(found: Findings, ledger: Ledger) -> None:
    """I1 in one snapshot of the ledger."""
    sums: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for hold in ledger.holds:
        held[hold.debit] += hold.amount_minor
    for account in ledger.accounts:
        sums[account.currency] += account.posted_minor
        available_minor = account.posted_minor - account.held_minor
        found.check(
            "I1",
            available_minor >= account.limit_minor,
            f"{account.account_id} has {available_minor}, and its limit is {account.limit_minor}",
        )
        posted = ledger.posted.get(account.account_id, 0)
        found.check(
            "I1",
            account.posted_minor == posted,
            f"{account.account_id} says {account.posted_minor}, and its postings {posted}",
        )
        found.check(
            "I1",
            account.held_minor == held[account.account_id],
            f"{account.account_id} holds {account.held_minor} for {held[account.account_id]}",
        )
    for currency, total in sums.items():
        found.check("I1", total == 0, f"balances in {currency} sum to {total}")
    for entry in ledger.entries:
        found.check("I1", entry.sum_minor == 0, f"{entry} sums to {entry.sum_minor}")


def _check_answers(found: Findings, history: History) -> None:
    """I3 and I4 among the answers alone."""
    for key, attempts in history.attempts.items():
        finals = [each for each in attempts if each.heard in FINAL and not each.clash]
        said = {(each.heard, each.why) for each in finals}
        said_ids = {each.txn_id for each in finals if each.txn_id}
        found.check("I3", len(said) <= 1, f"{key} was answered {sorted(map(str, said))}")
        found.check("I3", len(said_ids) <= 1, f"{key} was answered as {sorted(said_ids)}")
        found.check("I3", finals, f"{key} was never answered")
        for each in attempts:
            if each.clash and each.heard is not None:
                found.check(
                    "I4", each.heard not in FINAL, f"{key} with another body was {each.heard}"
                )
    for read in history.reads:
        if read.key in history.final and history.final[read.key].heard is Heard.COMMITTED:
            found.check(
                "I3", read.state == SUCCESS, f"{read.key} was COMMITTED, then seen {read.state}"
            )


def _check_books(found: Findings, books: Books) -> None:
    """I2 between the books, whoever asked."""
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in books.ledger.entries:
        entries[entry.txn_id].append(entry)
    decided = {d.txn_id for d in books.decisions.values() if d.outcome == COMMITTED}
    for txn_id in entries:
        found.check("I2", txn_id in decided, f"{txn_id} is in the journal and not committed")
    for txn_id in decided:
        found.check("I2", txn_id in entries, f"{txn_id} is committed and not in the journal")
    for trade in books.order.trades:
        paid = trade.state in (SUCCESS, PAYING)
        found.check("I2", not paid or trade.txn_id, f"{trade} is paid by nobody")
        if trade.state == SUCCESS:
            said = [(e.reference, e.debit, e.credit, e.amount_minor) for e in entries[trade.txn_id]]
            wanted = [(trade.trade_no, trade.payer, trade.payee, trade.amount_minor)]
            found.check("I2", said == wanted, f"{trade} is in the journal as {said}")
    for name, branches in (("ledger", books.ledger.branches), ("order", books.order.branches)):
        check_branches(found, "I2", name, branches, books.decisions)


def check_branches(
    found: Findings,
    invariant: str,
    participant: str,
    branches: list[BranchRow],
    decisions: dict[str, Decision],
) -> None:
    """What a participant has made of its branches was decided, and nothing else was."""
    for branch in branches:
        row = decisions.get(branch.txn_id)
        outcome = row.outcome if row else None
        if branch.state == COMMITTED:
            found.check(
                invariant,
                outcome in MAY_BE_COMMITTED,
                f"{branch} at {participant}: {outcome} in the log",
            )
        elif branch.state == ABORTED:
            found.check(
                invariant, outcome != COMMITTED, f"{branch} at {participant}: {outcome} in the log"
            )


def _check_effects(found: Findings, history: History, books: Books) -> None:
    """I3 and I4: each key has the effect that was answered, once, and nobody else has any."""
    rows: dict[str, list[Decision]] = defaultdict(list)
    for decision in books.decisions.values():
        rows[decision.key].append(decision)
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in books.ledger.entries:
        entries[entry.reference].append(entry)
    _check_nobody_elses(found, history, rows, entries)
    trades = {trade.trade_no: trade for trade in books.order.trades}
    payers: Counter[str] = Counter()
    for key, request in history.requests.items():
        mine = rows[request.log_key]
        _check_decision(found, history, key, mine)
        txn_ids = {row.txn_id for row in mine if row.outcome == COMMITTED}
        _check_entries(found, request, entries[request.reference], txn_ids)
        if txn_ids and request.trade_no:
            payers[request.trade_no] += 1
            trade = trades.get(request.trade_no)
            found.check(
                "I2",
                trade and trade.state == SUCCESS and trade.txn_id in txn_ids,
                f"{key} is committed as {txn_ids}, and its trade is {trade}",
            )
    for trade_no, count in payers.items():
        found.check("I4", count == 1, f"{trade_no} was paid under {count} keys")


def _check_nobody_elses(
    found: Findings,
    history: History,
    rows: dict[str, list[Decision]],
    entries: dict[str, list[Entry]],
) -> None:
    """What is in the log and in the journal was asked for; an inquiry's row has no key."""
    asked = history.requests.values()
    for key in rows.keys() - {"", *(request.log_key for request in asked)}:
        found.check("I4", False, f"the log has {key}, which nobody has asked for")
    for reference in entries.keys() - {request.reference for request in asked}:
        found.check("I4", False, f"the journal has {reference}, which nobody has asked for")


def _check_entries(
    found: Findings, request: Request, entries: list[Entry], txn_ids: set[str]
) -> None:
    """The journal has what a committed request asks for, once, and nothing of any other."""
    had = sorted((e.debit, e.credit, e.amount_minor) for e in entries if e.txn_id in txn_ids)
    asked = sorted((leg.debit, leg.credit, leg.amount_minor) for leg in request.legs)
    wanted = asked if txn_ids else []
    found.check("I4", had == wanted, f"{request.key} has had {had}, and asked for {asked}")


def _check_decision(found: Findings, history: History, key: str, rows: list[Decision]) -> None:
    """The log's row is what was answered."""
    found.check("I4", len(rows) <= 1, f"{key} has {len(rows)} rows in the log")
    final = history.final.get(key)
    if final is None:
        return
    row = rows[0] if rows else None
    said = (row.outcome, row.reason if row.outcome == ABORTED else "") if row else None
    heard = (str(final.heard), final.why)
    found.check("I3", said == heard, f"{key} was answered {heard}, and the log has {said}")
    if final.txn_id and row:
        found.check(
            "I3", final.txn_id == row.txn_id, f"{key} was {final.txn_id} and is {row.txn_id}"
        )


def _check_balances(found: Findings, history: History, ledger: Ledger) -> None:
    """I1: what clients know to have moved comes to what the accounts say."""
    expected: Counter[str] = Counter()
    for request in history.committed():
        for leg in request.legs:
            expected[leg.debit] -= leg.amount_minor
            expected[leg.credit] += leg.amount_minor
    if any(history.open_keys()):
        return  # a violation of I3 already: nobody knows what these have moved
    for account in ledger.accounts:
        found.check(
            "I1",
            account.posted_minor == expected[account.account_id],
            f"{account.account_id} has {account.posted_minor}, and clients know of"
            f" {expected[account.account_id]}",
        )
