"""OrderService over the trades."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tallystick.order.v1 import order_service_pb2 as pb
from tallystick.order.v1 import order_service_pb2_grpc

from services import wire
from services.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound
from services.order import trades
from services.order.state import TradeState
from txn.clock import Clock
from txn.rpc import Context
from txn.store.group_commit import Store
from txn.store.sql import Sql

VALID_FOR_DEFAULT_US = 15 * 60 * 1_000_000
QR_CODE_PREFIX = "tallystick://pay/"

_STATES_OUT = {
    TradeState.WAIT_BUYER_PAY: pb.TRADE_STATE_WAIT_BUYER_PAY,
    TradeState.PAYING: pb.TRADE_STATE_PAYING,
    TradeState.TRADE_SUCCESS: pb.TRADE_STATE_TRADE_SUCCESS,
    TradeState.TRADE_CLOSED: pb.TRADE_STATE_TRADE_CLOSED,
}


@dataclass(frozen=True, slots=True)
class OrderConfig:
    """CloseTrade waits `close_wait_s` for a payment under way, and looks each `close_look_s`."""

    close_wait_s: float = 5.0
    close_look_s: float = 0.1


class OrderServicer(order_service_pb2_grpc.OrderServiceServicer):
    """See the proto for every method."""

    def __init__(
        self,
        store: Store[Sql],
        clock: Clock,
        new_trade_no: Callable[[], str],
        config: OrderConfig | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._new_trade_no = new_trade_no
        self._config = config or OrderConfig()

    async def CreateTrade(  # noqa: N802
        self, request: pb.CreateTradeRequest, context: Context
    ) -> pb.CreateTradeResponse:
        """Creates a trade, or returns the one that this request created before."""
        wanted = self._new_trade(request)
        trade = await self._store.write(lambda tx: trades.create(tx, wanted))
        if trade.asked != wanted.asked:
            raise AlreadyExists(
                "OUT_TRADE_NO_USED", "out_trade_no stands for another trade of this merchant"
            )
        return pb.CreateTradeResponse(trade=self._out(trade))

    async def GetTrade(  # noqa: N802
        self, request: pb.GetTradeRequest, context: Context
    ) -> pb.GetTradeResponse:
        """One trade."""

        def find(tx: Sql) -> trades.Trade | None:
            if request.WhichOneof("name") == "trade_no":
                return trades.find(tx, request.trade_no)
            name = request.merchant_trade
            return trades.find_by_merchant(tx, name.merchant_id, name.out_trade_no)

        trade = await self._store.read(find)
        if trade is None:
            raise _not_found()
        return pb.GetTradeResponse(trade=self._out(trade))

    async def CloseTrade(  # noqa: N802
        self, request: pb.CloseTradeRequest, context: Context
    ) -> pb.CloseTradeResponse:
        """Closes a trade; waits for a payment that is under way."""
        deadline = self._clock.monotonic() + self._config.close_wait_s
        while True:
            trade = await self._store.write(lambda tx: _close(tx, request.trade_no))
            if trade.state is not TradeState.PAYING:
                break
            if self._clock.monotonic() > deadline:
                raise Aborted("TRADE_PAYING", "a payment of this trade is under way: try again")
            await self._clock.sleep(self._config.close_look_s)
        if trade.state is TradeState.TRADE_SUCCESS:
            raise FailedPrecondition("TRADE_PAID", "the trade is paid")
        return pb.CloseTradeResponse(trade=self._out(trade))

    def _new_trade(self, request: pb.CreateTradeRequest) -> trades.Trade:
        amount = wire.money_from(request.amount, "amount")
        now_us = self._clock.utc_us()
        valid_for_us = VALID_FOR_DEFAULT_US
        if request.HasField("valid_for"):
            valid_for_us = request.valid_for.ToMicroseconds()
        return trades.Trade(
            trade_no=self._new_trade_no(),
            merchant_id=request.merchant_id,
            out_trade_no=request.out_trade_no,
            subject=request.subject,
            currency_code=amount.currency_code,
            amount_minor=amount.amount_minor,
            payee_account_id=request.payee_account_id,
            state=TradeState.WAIT_BUYER_PAY,
            txn_id="",
            payer_account_id="",
            valid_for_us=valid_for_us,
            created_at_us=now_us,
            expires_at_us=now_us + valid_for_us,
            paid_at_us=None,
        )

    def _out(self, trade: trades.Trade) -> pb.Trade:
        if trade.expired(self._clock.utc_us()):
            trade = replace(trade, state=TradeState.TRADE_CLOSED)
        return pb.Trade(
            trade_no=trade.trade_no,
            merchant_id=trade.merchant_id,
            out_trade_no=trade.out_trade_no,
            subject=trade.subject,
            amount=wire.money_out(trade.currency_code, trade.amount_minor),
            payee_account_id=trade.payee_account_id,
            state=_STATES_OUT[trade.state],
            qr_code=QR_CODE_PREFIX + trade.trade_no,
            txn_id=trade.txn_id,
            create_time=wire.time_out(trade.created_at_us),
            expire_time=wire.time_out(trade.expires_at_us),
            success_time=wire.time_out(trade.paid_at_us),
            payer_account_id=trade.payer_account_id,
        )


def _close(tx: Sql, trade_no: str) -> trades.Trade:
    trade = trades.find(tx, trade_no)
    if trade is None:
        raise _not_found()
    if trade.state is TradeState.WAIT_BUYER_PAY:
        trade = trade.moved(TradeState.TRADE_CLOSED)
        trades.save(tx, trade)
    return trade


def _not_found() -> NotFound:
    return NotFound("TRADE_NOT_FOUND", "there is no such trade")
