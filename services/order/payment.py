"""The order's branch of a payment: PAYING at prepare, TRADE_SUCCESS at commit, back at abort."""

from __future__ import annotations

from collections.abc import Sequence

from tallystick.order.v1.order_service_pb2 import PayTradeOperation

from services.order import trades
from services.order.state import TradeState
from txn.barrier import in_the_way
from txn.clock import Clock
from txn.errors import Busy, Refused
from txn.model import BranchKey, TxnId
from txn.resource import Item
from txn.state import Vote
from txn.store.sql import Sql

TRADE_NOT_FOUND = "TRADE_NOT_FOUND"
TRADE_MISMATCH = "TRADE_MISMATCH"
TRADE_EXPIRED = "TRADE_EXPIRED"
TRADE_PAYING = "TRADE_PAYING"
_REFUSED_IN = {
    TradeState.TRADE_SUCCESS: "TRADE_PAID",
    TradeState.TRADE_CLOSED: "TRADE_CLOSED",
}


class PayTradeResource:
    """BatchResource for PayTradeOperation."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def prepare_all(
        self, tx: Sql, items: Sequence[Item[PayTradeOperation]]
    ) -> Sequence[Vote | Refused | Busy]:
        """Takes each trade for its transaction. Expiry follows UTC."""
        now_us = self._clock.utc_us()
        # What earlier items have taken is PAYING for those that come later.
        known = trades.find_payables(tx, [each.operation.trade_no for each in items])
        taken: list[trades.Payable] = []
        votes: list[Vote | Refused | Busy] = []
        for key, operation in items:
            trade_no = operation.trade_no
            trade = known.get(trade_no)
            refusal = _refusal(key, operation, trade, now_us)
            if trade is None or refusal is not None:
                votes.append(refusal or Refused(TRADE_NOT_FOUND))
                continue
            trade = known[trade_no] = trade.moved(
                TradeState.PAYING, key.txn_id, operation.payer_account_id
            )
            taken.append(trade)
            votes.append(Vote.COMMIT)
        trades.save_payable(tx, taken)
        return votes

    def commit_all(self, tx: Sql, items: Sequence[Item[PayTradeOperation]]) -> None:
        """The trades are paid."""
        now_us = self._clock.utc_us()
        trades.save_payable(
            tx,
            [
                trade.moved(TradeState.TRADE_SUCCESS, trade.txn_id, trade.payer_account_id, now_us)
                for trade in _taken(tx, items)
            ],
        )

    def abort_all(self, tx: Sql, items: Sequence[Item[PayTradeOperation]]) -> None:
        """The trades can be paid again."""
        trades.save_payable(
            tx,
            [trade.moved(TradeState.WAIT_BUYER_PAY, "", "") for trade in _taken(tx, items)],
        )


def _refusal(
    key: BranchKey,
    operation: PayTradeOperation,
    trade: trades.Payable | None,
    now_us: int,
) -> Refused | Busy | None:
    if trade is None:
        return Refused(TRADE_NOT_FOUND)
    if trade.state is TradeState.PAYING:
        return in_the_way(key.txn_id, TxnId(trade.txn_id), TRADE_PAYING)
    if trade.state in _REFUSED_IN:
        return Refused(_REFUSED_IN[trade.state])
    if now_us >= trade.expires_at_us:
        return Refused(TRADE_EXPIRED)
    agreed = (
        operation.amount.currency_code,
        operation.amount.amount_minor,
        operation.payee_account_id,
    )
    if agreed != (trade.currency_code, trade.amount_minor, trade.payee_account_id):
        return Refused(TRADE_MISMATCH)
    return None


def _taken(tx: Sql, items: Sequence[Item[PayTradeOperation]]) -> list[trades.Payable]:
    """The trades that these branches have taken. Raises LookupError when one is not theirs."""
    known = trades.find_payables(tx, [each.operation.trade_no for each in items])
    found = []
    for key, operation in items:
        trade = known.get(operation.trade_no)
        if trade is None or trade.txn_id != key.txn_id:
            raise LookupError(f"{key} has not taken its trade")
        found.append(trade)
    return found
