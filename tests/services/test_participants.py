"""The participants of a payment keep the rules of participants."""

from __future__ import annotations

import sqlite3

from tallystick.ledger.v1.ledger_service_pb2 import TransferOperation
from tallystick.order.v1.order_service_pb2 import PayTradeOperation
from tallystick.type.v1.money_pb2 import Money as WireMoney

from services.ledger import books
from services.ledger.transfer import TransferResource
from services.money import CurrencyCode
from services.order import trades
from services.order.payment import PayTradeResource
from services.order.state import TradeState
from services.store import own_schema
from tests.txn.helpers import FastClock
from txn.testing import check_participant

EUR = CurrencyCode("EUR")


def transfer(debit: str, amount_minor: int, code: str = EUR) -> TransferOperation:
    """To the shop."""
    return TransferOperation(
        debit_account_id=debit,
        credit_account_id="shop",
        amount=WireMoney(currency_code=code, amount_minor=amount_minor),
    )


def accounts(tx: sqlite3.Connection) -> None:
    """Two payers that may go 100 EUR cents below zero, and a shop."""
    for name, limit_minor in (("ann", -100), ("bob", -100), ("shop", 0)):
        books.open_account(tx, books.Account(name, EUR, limit_minor, 0, 0, 1))


async def test_the_ledger_is_a_right_participant() -> None:
    """Holds, postings and voids, alone and in batches."""
    await check_participant(
        lambda: TransferResource(FastClock()),
        schema=own_schema("ledger"),
        setup=accounts,
        accepted=[transfer("ann", 30), transfer("bob", 40)],
        refused=[transfer("ann", 101), transfer("eve", 1), transfer("ann", 1, "USD")],
        rivals=[(transfer("ann", 60), transfer("ann", 50))],
    )


def pay(trade_no: str, amount_minor: int = 100) -> PayTradeOperation:
    """Of a trade over 100 EUR cents."""
    return PayTradeOperation(
        trade_no=trade_no,
        amount=WireMoney(currency_code=EUR, amount_minor=amount_minor),
        payee_account_id="shop",
        payer_account_id="ann",
    )


def trade(trade_no: str, state: TradeState = TradeState.WAIT_BUYER_PAY) -> trades.Trade:
    """One that does not expire while it is looked at."""
    return trades.Trade(
        trade_no=trade_no,
        merchant_id="shop",
        out_trade_no=trade_no,
        subject="tea",
        currency_code=EUR,
        amount_minor=100,
        payee_account_id="shop",
        state=state,
        txn_id="",
        payer_account_id="",
        valid_for_us=1,
        created_at_us=0,
        expires_at_us=FastClock().utc + 1,
        paid_at_us=None,
    )


def open_trades(tx: sqlite3.Connection) -> None:
    """Two that can be paid, and one that is closed."""
    for each in (trade("n1"), trade("n2"), trade("n3", TradeState.TRADE_CLOSED)):
        trades.create(tx, each)


async def test_the_order_is_a_right_participant() -> None:
    """PAYING, paid and back, alone and in batches."""
    await check_participant(
        lambda: PayTradeResource(FastClock()),
        schema=own_schema("order"),
        setup=open_trades,
        accepted=[pay("n1"), pay("n2")],
        refused=[pay("n3"), pay("n4"), pay("n1", 99)],
        rivals=[(pay("n1"), pay("n1"))],
    )
