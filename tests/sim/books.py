"""The business of the simulator's participants: banks with accounts and holds, a shop with trades.

An operation is text, `verb|subject|amount|effect`; the effect names what it is for, so that
the books themselves say how often it was done. Banks take batches, the shop one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from txn.barrier import in_the_way
from txn.errors import Busy, FieldViolation, InvalidOperation, Refused
from txn.model import BranchKey, Operation
from txn.resource import Item
from txn.state import Vote
from txn.testing import Tables

TYPE = "type.example/Step"
VERBS = ("debit", "credit", "look", "pay", "break")
INITIAL_MINOR = 100


class Defect(Exception):
    """What a resource raises that has a bug."""


class Step(NamedTuple):
    """What one branch is to do. `amount_minor` is 0 where there is nothing to count."""

    verb: str
    subject: str
    amount_minor: int
    effect: str


class Account(NamedTuple):
    """Posted balance, and how far below zero `available` may go (0 or negative)."""

    balance_minor: int
    limit_minor: int


class Hold(NamedTuple):
    """What a prepared debit has reserved."""

    account: str
    amount_minor: int


class Entry(NamedTuple):
    """One posting, or one paid trade: written at commit."""

    key: BranchKey
    subject: str
    amount_minor: int
    effect: str


def operation(step: Step) -> Operation:
    """The step as an operation."""
    return Operation(TYPE, "|".join(map(str, step)).encode())


class StepCodec:
    """Codec of steps."""

    def decode(self, operation: Operation) -> Step:
        """See Codec.decode."""
        step = self.read(operation)
        if step.verb not in VERBS:
            raise InvalidOperation([FieldViolation("verb", "verb.known", "is not known")])
        return step

    def read(self, operation: Operation) -> Step:
        """See Codec.read."""
        verb, subject, amount, effect = operation.value.decode().split("|")
        return Step(verb, subject, int(amount), effect)


def held_minor(tables: Tables, account: str) -> int:
    """What the holds on an account come to."""
    return sum(h.amount_minor for h in tables.get("hold", {}).values() if h.account == account)


def post(tx: Tables, key: BranchKey, step: Step, amount_minor: int) -> None:
    """Adds an entry to the journal, which is never changed otherwise."""
    journal = tx.setdefault("journal", {})
    journal[len(journal)] = Entry(key, step.subject, amount_minor, step.effect)


class Bank:
    """BatchResource: a debit is held from prepare on, a credit needs its account only."""

    def prepare_all(
        self, tx: Tables, items: Sequence[Item[Step]]
    ) -> Sequence[Vote | Refused | Busy]:
        """See BatchResource.prepare_all."""
        return [self._prepare(tx, key, step) for key, step in items]

    def commit_all(self, tx: Tables, items: Sequence[Item[Step]]) -> None:
        """See BatchResource.commit_all."""
        accounts = tx["account"]
        for key, step in items:
            amount_minor = step.amount_minor
            if step.verb == "debit":
                tx["hold"].pop(key, None)
                amount_minor = -amount_minor
            account = accounts[step.subject]
            balance_minor = account.balance_minor + amount_minor
            accounts[step.subject] = account._replace(balance_minor=balance_minor)
            post(tx, key, step, amount_minor)

    def abort_all(self, tx: Tables, items: Sequence[Item[Step]]) -> None:
        """See BatchResource.abort_all."""
        for key, _ in items:
            tx.setdefault("hold", {}).pop(key, None)

    def _prepare(self, tx: Tables, key: BranchKey, step: Step) -> Vote | Refused | Busy:
        account = tx.get("account", {}).get(step.subject)
        if account is None:
            return Refused("ACCOUNT_NOT_FOUND")
        if step.verb == "break":
            raise Defect(f"at {key}")
        if step.verb == "look":
            return Vote.READ_ONLY
        if step.verb == "credit":
            return Vote.COMMIT
        after_minor = account.balance_minor - step.amount_minor
        if after_minor < account.limit_minor:
            return Refused("INSUFFICIENT_FUNDS")
        if after_minor - self.reserved_minor(tx, step.subject) < account.limit_minor:
            # It would do without the holds of others, some of which may yet be voided.
            holders = [k.txn_id for k, h in tx["hold"].items() if h.account == step.subject]
            return in_the_way(key.txn_id, max(holders), "INSUFFICIENT_FUNDS")
        tx.setdefault("hold", {})[key] = Hold(step.subject, step.amount_minor)
        return Vote.COMMIT

    def reserved_minor(self, tx: Tables, account: str) -> int:
        """What others have reserved."""
        return held_minor(tx, account)


class Shop:
    """Resource: a trade is paid once; while it is being paid it is in the way of others."""

    def prepare(self, tx: Tables, key: BranchKey, operation: Step) -> Vote:
        """See Resource.prepare."""
        trades = tx.setdefault("trade", {})
        state, holder = trades.get(operation.subject, ("WAIT", None))
        if state == "PAID":
            raise Refused("TRADE_PAID")
        if state == "PAYING":
            raise in_the_way(key.txn_id, holder.txn_id, "TRADE_PAYING")
        trades[operation.subject] = ("PAYING", key)
        return Vote.COMMIT

    def commit(self, tx: Tables, key: BranchKey, operation: Step) -> None:
        """See Resource.commit."""
        tx["trade"][operation.subject] = ("PAID", key)
        post(tx, key, operation, 0)

    def abort(self, tx: Tables, key: BranchKey, operation: Step) -> None:
        """See Resource.abort."""
        tx["trade"][operation.subject] = ("WAIT", None)
