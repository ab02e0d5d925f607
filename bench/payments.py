"""Payments to measure with: who pays whom for which trade, and the requests for that.

A payment is known by its series and its number, so that whoever fills the books before a
measurement and whoever sends the requests agree without talking to each other.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from google.protobuf import any_pb2
from google.protobuf.message import Message
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.order.v1 import order_service_pb2
from tallystick.txn.v1 import coordinator_service_pb2
from tallystick.type.v1 import money_pb2

CURRENCY: Final = "EUR"
AMOUNT_MINOR: Final = 100
LEDGER: Final = "ledger"
PARTICIPANTS: Final = ("order", LEDGER)
HOT_PAYEE: Final = "payee-hot"


@dataclass(frozen=True, slots=True)
class Series:
    """Payments 0, 1, 2...: each of its own trade, by one of many payers, to one of as many payees.

    With `hot` all of them are to one payee. Those that are `single` are at the ledger alone.
    """

    name: str
    accounts: int
    hot: bool = False
    single: bool = False

    def trade_no(self, number: int) -> str:
        """The trade that payment `number` is for."""
        return f"{self.name}-{number:012}"

    def payer(self, number: int) -> str:
        """Whose account is debited."""
        return f"payer-{zlib.crc32(b'payer %d' % number) % self.accounts}"

    def payee(self, number: int) -> str:
        """Whose account is credited."""
        if self.hot:
            return HOT_PAYEE
        return f"payee-{zlib.crc32(b'payee %d' % number) % self.accounts}"

    def operations(self, number: int) -> tuple[Message, Message]:
        """What payment `number` is at the order and at the ledger."""
        trade_no, payer, payee = self.trade_no(number), self.payer(number), self.payee(number)
        amount = money_pb2.Money(currency_code=CURRENCY, amount_minor=AMOUNT_MINOR)
        return (
            order_service_pb2.PayTradeOperation(
                trade_no=trade_no, amount=amount, payee_account_id=payee, payer_account_id=payer
            ),
            ledger_service_pb2.TransferOperation(
                debit_account_id=payer,
                credit_account_id=payee,
                amount=amount,
                reference=trade_no,
            ),
        )

    def request(self, first: int, payments: int = 1) -> coordinator_service_pb2.ExecuteRequest:
        """One transaction of payments `first`, `first + 1`...: two branches for each of them."""
        request = coordinator_service_pb2.ExecuteRequest(idempotency_key=self.trade_no(first))
        for at in range(payments):
            for participant, operation in zip(
                PARTICIPANTS, self.operations(first + at), strict=True
            ):
                if self.single and participant != LEDGER:
                    continue
                request.branches.add(
                    branch_id=f"{participant}-{at}",
                    participant=participant,
                    operation=packed(operation),
                )
        return request


def packed(operation: Message) -> any_pb2.Any:
    """An operation for a branch."""
    wrapped = any_pb2.Any()
    wrapped.Pack(operation)
    return wrapped
