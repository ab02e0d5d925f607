"""Asks the mesh for one request once, and says what was heard."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.order.v1 import order_service_pb2
from tallystick.type.v1 import money_pb2
from tallystick.wallet.v1 import wallet_service_pb2

from tests.chaos.history import Heard, Kind, Leg, Request
from tests.chaos.money import MERCHANT, PASSWORD
from tests.support.mesh import Clients
from txn.errors import IdempotencyConflict, OutcomeUnknown, Overloaded, TransactionAborted
from txn.model import Branch, BranchId
from txn.rpc import TransactionClient, operation_of, reason_of

READ_TIMEOUT_S = 3.0


def stop_file(home: Path) -> Path:
    """When it is there, clients are to end."""
    return home / "clients" / "stop"


Answer = tuple[Heard, str, str]
"""What was heard, the txn_id if it was said, and why."""


class Payer:
    """A client of the mesh: stubs, and the streamed way to the coordinator."""

    def __init__(self, home: Path, etcd: str) -> None:
        """Call it on the loop that uses it."""
        self.mesh = Clients(home)
        self.mesh.connect(etcd)
        self._transactions = TransactionClient(self.mesh.channel("coordinator"))

    async def close(self) -> None:
        """Ends every call."""
        await self._transactions.close()
        await self.mesh.disconnect()

    async def trade(self, request: Request) -> str | None:
        """The number of the trade of a request, the same each time; None if that failed."""
        (leg,) = request.legs
        wanted = order_service_pb2.CreateTradeRequest(
            merchant_id=MERCHANT,
            out_trade_no=request.key,
            subject="under fire",
            amount=_money(request.currency, leg),
            payee_account_id=leg.credit,
        )
        try:
            reply = await self.mesh.order.CreateTrade(wanted, timeout=READ_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return None
        return reply.trade.trade_no

    async def state_of(self, trade_no: str) -> str | None:
        """A trade's state by its bare name; None if nobody said."""
        request = order_service_pb2.GetTradeRequest(trade_no=trade_no)
        try:
            reply = await self.mesh.order.GetTrade(request, timeout=READ_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return None
        return order_service_pb2.TradeState.Name(reply.trade.state).removeprefix("TRADE_STATE_")

    async def ask(self, request: Request, timeout_s: float) -> Answer:
        """Asks once."""
        if request.kind is Kind.WALLET:
            return await self._confirm(request, timeout_s)
        try:
            done = await self._transactions.execute(
                branches(request), idempotency_key=request.key, timeout_s=timeout_s
            )
        except TransactionAborted as error:
            return Heard.ABORTED, str(error.txn_id), error.reason
        except IdempotencyConflict as error:
            return Heard.REFUSED, "", str(error)
        except OutcomeUnknown as error:
            return Heard.PENDING, "", error.reason
        except Overloaded as error:
            return Heard.ERROR, "", str(error)
        return Heard.COMMITTED, str(done.txn_id), ""

    async def _confirm(self, request: Request, timeout_s: float) -> Answer:
        confirm = wallet_service_pb2.ConfirmPaymentRequest(
            idempotency_key=request.key,
            user_id=request.user_id,
            trade_no=request.trade_no,
            payment_password=PASSWORD,
        )
        try:
            reply = await self.mesh.wallet.ConfirmPayment(confirm, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return Heard.ABORTED, "", reason_of(error)
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                return Heard.REFUSED, "", reason_of(error)
            return Heard.ERROR, "", error.code().name
        if reply.state == wallet_service_pb2.PAYMENT_STATE_SUCCEEDED:
            return Heard.COMMITTED, reply.txn_id, ""
        return Heard.PENDING, reply.txn_id, ""


def branches(request: Request) -> list[Branch]:
    """The transaction of a request."""
    transfers = [
        Branch(
            BranchId("ledger" if number == 0 else f"ledger{number}"),
            "ledger",
            operation_of(
                ledger_service_pb2.TransferOperation(
                    debit_account_id=leg.debit,
                    credit_account_id=leg.credit,
                    amount=_money(request.currency, leg),
                    reference=request.reference,
                )
            ),
        )
        for number, leg in enumerate(request.legs)
    ]
    if request.kind is not Kind.PAYMENT:
        return transfers
    (leg,) = request.legs
    pay = order_service_pb2.PayTradeOperation(
        trade_no=request.trade_no,
        amount=_money(request.currency, leg),
        payee_account_id=leg.credit,
        payer_account_id=leg.debit,
    )
    return [Branch(BranchId("order"), "order", operation_of(pay)), *transfers]


def _money(currency: str, leg: Leg) -> money_pb2.Money:
    return money_pb2.Money(currency_code=currency, amount_minor=leg.amount_minor)


async def until_true(condition: asyncio.Event, timeout_s: float) -> bool:
    """Waits at most so long for an event; whether it is there."""
    try:
        await asyncio.wait_for(condition.wait(), timeout_s)
    except TimeoutError:
        return False
    return True
