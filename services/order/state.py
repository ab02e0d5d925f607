"""The states of a trade, and the one table of legal moves."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class TradeState(Enum):
    """PAYING is this service's hold: a payment is prepared and its outcome not known yet."""

    WAIT_BUYER_PAY = "WAIT_BUYER_PAY"
    PAYING = "PAYING"
    TRADE_SUCCESS = "TRADE_SUCCESS"
    TRADE_CLOSED = "TRADE_CLOSED"


_S = TradeState
TRADE_MOVES: Mapping[TradeState, frozenset[TradeState]] = {
    _S.WAIT_BUYER_PAY: frozenset({_S.PAYING, _S.TRADE_CLOSED}),
    _S.PAYING: frozenset({_S.TRADE_SUCCESS, _S.WAIT_BUYER_PAY}),
    _S.TRADE_SUCCESS: frozenset(),
    _S.TRADE_CLOSED: frozenset(),
}
