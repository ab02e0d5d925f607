"""Trades as SQL: every statement that reads or changes one.

Each function runs inside the caller's local transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from services.order.state import TRADE_MOVES, TradeState
from txn.state import move
from txn.store.sql import Sql, select_in, write_rows

_COLUMNS = (
    "trade_no, merchant_id, out_trade_no, subject, currency_code, amount_minor, "
    "payee_account_id, state, txn_id, payer_account_id, valid_for_us, created_at_us, "
    "expires_at_us, paid_at_us"
)
_STATES = {state.value: state for state in TradeState}


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade; times are UTC in microseconds since 1970."""

    trade_no: str
    merchant_id: str
    out_trade_no: str
    subject: str
    currency_code: str
    amount_minor: int
    payee_account_id: str
    state: TradeState
    txn_id: str
    payer_account_id: str
    valid_for_us: int
    created_at_us: int
    expires_at_us: int
    paid_at_us: int | None

    @property
    def asked(self) -> tuple[str, str, str, str, int, str, int]:
        """What the merchant asked for: all that a repeated request must repeat."""
        return (
            self.merchant_id,
            self.out_trade_no,
            self.subject,
            self.currency_code,
            self.amount_minor,
            self.payee_account_id,
            self.valid_for_us,
        )

    def expired(self, now_us: int) -> bool:
        """Whether it can no longer be paid because of its age."""
        return self.state is TradeState.WAIT_BUYER_PAY and now_us >= self.expires_at_us

    def moved(self, to: TradeState) -> Trade:
        """The trade in another state. Raises IllegalTransition."""
        return replace(self, state=move(TRADE_MOVES, self.state, to))


class Payable(NamedTuple):
    """What a payment has to know of a trade, and what it changes."""

    trade_no: str
    state: TradeState
    txn_id: str
    payer_account_id: str
    paid_at_us: int | None
    currency_code: str
    amount_minor: int
    payee_account_id: str
    expires_at_us: int

    def moved(
        self, to: TradeState, txn_id: str, payer_account_id: str, paid_at_us: int | None = None
    ) -> Payable:
        """The trade in another state. Raises IllegalTransition."""
        return self._replace(
            state=move(TRADE_MOVES, self.state, to),
            txn_id=txn_id,
            payer_account_id=payer_account_id,
            paid_at_us=paid_at_us,
        )


def find_payables(tx: Sql, trade_nos: Iterable[str]) -> dict[str, Payable]:
    """Those trades that there are, as a payment sees them."""
    rows = select_in(
        tx,
        f"SELECT {', '.join(Payable._fields)} FROM trade WHERE trade_no IN",
        list(dict.fromkeys(trade_nos)),
    )
    return {row[0]: Payable(row[0], _STATES[row[1]], *row[2:]) for row in rows}


def save_payable(tx: Sql, payables: Sequence[Payable]) -> None:
    """Writes back what a payment changes."""
    write_rows(
        tx,
        "UPDATE trade SET state = column1, txn_id = column2, payer_account_id = column3, "
        "paid_at_us = column4 FROM ({rows}) AS saved WHERE trade_no = column5",
        [
            (each.state.value, each.txn_id, each.payer_account_id, each.paid_at_us, each.trade_no)
            for each in payables
        ],
        "text, text, text, bigint, text",
    )


def create(tx: Sql, trade: Trade) -> Trade:
    """Keeps the trade unless the merchant's number is taken; returns the one that stands."""
    tx.execute(
        f"INSERT INTO trade ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (merchant_id, out_trade_no) DO NOTHING",
        (
            trade.trade_no,
            trade.merchant_id,
            trade.out_trade_no,
            trade.subject,
            trade.currency_code,
            trade.amount_minor,
            trade.payee_account_id,
            trade.state.value,
            trade.txn_id,
            trade.payer_account_id,
            trade.valid_for_us,
            trade.created_at_us,
            trade.expires_at_us,
            trade.paid_at_us,
        ),
    )
    stands = find_by_merchant(tx, trade.merchant_id, trade.out_trade_no)
    assert stands is not None
    return stands


def find(tx: Sql, trade_no: str) -> Trade | None:
    """The trade of that number."""
    return _one(tx, "trade_no = ?", (trade_no,))


def find_by_merchant(tx: Sql, merchant_id: str, out_trade_no: str) -> Trade | None:
    """The trade that a merchant knows under its own number."""
    return _one(tx, "merchant_id = ? AND out_trade_no = ?", (merchant_id, out_trade_no))


def save(tx: Sql, trade: Trade) -> None:
    """Writes back what may change: state, transaction, payer, time of payment."""
    tx.execute(
        "UPDATE trade SET state = ?, txn_id = ?, payer_account_id = ?, paid_at_us = ? "
        "WHERE trade_no = ?",
        (trade.state.value, trade.txn_id, trade.payer_account_id, trade.paid_at_us, trade.trade_no),
    )


def _one(tx: Sql, condition: str, values: tuple[str, ...]) -> Trade | None:
    row = tx.execute(f"SELECT {_COLUMNS} FROM trade WHERE {condition}", values).fetchone()
    if row is None:
        return None
    columns: dict[str, Any] = dict(zip(_COLUMNS.split(", "), row, strict=True))
    return Trade(**{**columns, "state": TradeState(columns["state"])})
