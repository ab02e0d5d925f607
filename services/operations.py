"""How the operations of transactions are read: by their participants, and by the coordinator.

The rules stand in the protos, and protovalidate says which of them is broken. Asking it
costs several microseconds, for each operation, at the coordinator and again at the
participant. So each operation has a quick look here that recognizes what is surely valid;
whatever it does not recognize is left to protovalidate.
"""

from __future__ import annotations

import re
from typing import Final

from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.order.v1 import order_service_pb2
from tallystick.type.v1 import money_pb2

from txn.rpc import OperationCodec

_AMOUNT_MAX_MINOR: Final = 10**14
_REFERENCE_LENGTH_MAX: Final = 64
_name = re.compile(r"[A-Za-z0-9._:-]{1,64}").fullmatch
_currency = re.compile(r"[A-Z]{3}").fullmatch


def _surely_valid_amount(amount: money_pb2.Money) -> bool:
    return (
        0 < amount.amount_minor <= _AMOUNT_MAX_MINOR and _currency(amount.currency_code) is not None
    )


def surely_valid_transfer(operation: ledger_service_pb2.TransferOperation) -> bool:
    """True only if no rule of TransferOperation is broken."""
    debit, credit = operation.debit_account_id, operation.credit_account_id
    return (
        debit != credit
        and _name(debit) is not None
        and _name(credit) is not None
        and len(operation.reference) <= _REFERENCE_LENGTH_MAX
        and "\0" not in operation.reference
        and _surely_valid_amount(operation.amount)
    )


def surely_valid_payment(operation: order_service_pb2.PayTradeOperation) -> bool:
    """True only if no rule of PayTradeOperation is broken."""
    return (
        _name(operation.trade_no) is not None
        and _name(operation.payee_account_id) is not None
        and _name(operation.payer_account_id) is not None
        and _surely_valid_amount(operation.amount)
    )


TRANSFER: Final = OperationCodec(ledger_service_pb2.TransferOperation, surely_valid_transfer)
PAY_TRADE: Final = OperationCodec(order_service_pb2.PayTradeOperation, surely_valid_payment)
