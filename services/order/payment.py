"""The order's branch of a payment: PAYING at prepare, TRADE_SUCCESS at commit, back at abort."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from tallystick.order.v1 import order_service_pb2

from services.order import trades
from services.order.state import TradeState
from txn.barrier import in_the_way
from txn.clock import Clock
from txn.errors import Refused
from txn.model import BranchKey, TxnId
from txn.state import Vote

TRADE_NOT_FOUND = "TRADE_NOT_FOUND"
TRADE_MISMATCH = "TRADE_MISMATCH"
TRADE_EXPIRED = "TRADE_EXPIRED"
TRADE_PAYING = "TRADE_PAYING"
_REFUSED_IN = {
    TradeState.TRADE_SUCCESS: "TRADE_PAID",
    TradeState.TRADE_CLOSED: "TRADE_CLOSED",
}


class PayTradeResource:
    """Resource for PayTradeOperation."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def prepare(
        self,
        tx: sqlite3.Connection,
        key: BranchKey,
        operation: order_service_pb2.PayTradeOperation,
    ) -> Vote:
        """Takes the trade for this transaction. Expiry follows UTC."""
        trade = trades.find(tx, operation.trade_no)
        if trade is None:
            raise Refused(TRADE_NOT_FOUND)
        if trade.state is TradeState.PAYING:
            raise in_the_way(key.txn_id, TxnId(trade.txn_id), TRADE_PAYING)
        if trade.state in _REFUSED_IN:
            raise Refused(_REFUSED_IN[trade.state])
        if trade.expired(self._clock.utc_us()):
            raise Refused(TRADE_EXPIRED)
        agreed = (
            operation.amount.currency_code,
            operation.amount.amount_minor,
            operation.payee_account_id,
        )
        if agreed != (trade.currency_code, trade.amount_minor, trade.payee_account_id):
            raise Refused(TRADE_MISMATCH)
        taken = replace(
            trade.moved(TradeState.PAYING),
            txn_id=key.txn_id,
            payer_account_id=operation.payer_account_id,
        )
        trades.save(tx, taken)
        return Vote.COMMIT

    def commit(
        self,
        tx: sqlite3.Connection,
        key: BranchKey,
        operation: order_service_pb2.PayTradeOperation,
    ) -> None:
        """The trade is paid."""
        trade = self._taken(tx, key, operation)
        trades.save(
            tx, replace(trade.moved(TradeState.TRADE_SUCCESS), paid_at_us=self._clock.utc_us())
        )

    def abort(
        self,
        tx: sqlite3.Connection,
        key: BranchKey,
        operation: order_service_pb2.PayTradeOperation,
    ) -> None:
        """The trade can be paid again."""
        trade = self._taken(tx, key, operation)
        trades.save(
            tx,
            replace(trade.moved(TradeState.WAIT_BUYER_PAY), txn_id="", payer_account_id=""),
        )

    def _taken(
        self,
        tx: sqlite3.Connection,
        key: BranchKey,
        operation: order_service_pb2.PayTradeOperation,
    ) -> trades.Trade:
        trade = trades.find(tx, operation.trade_no)
        assert trade is not None
        assert trade.txn_id == key.txn_id
        return trade
