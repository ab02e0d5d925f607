"""Reading operations."""

from __future__ import annotations

from typing import Any

import pytest
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.type.v1 import money_pb2

from tests.txn.rpc.rig import packed, transfer
from txn.errors import InvalidOperation
from txn.model import Operation
from txn.rpc import OPERATION_SIZE_MAX_BYTES, OperationCodec
from txn.rpc.operation import any_from, operation_from

CODEC = OperationCodec(ledger_service_pb2.TransferOperation)
URL = "type.googleapis.com/tallystick.ledger.v1.TransferOperation"


def broken(operation: Operation) -> set[tuple[str, str]]:
    """Fields and rules that the codec names."""
    with pytest.raises(InvalidOperation) as caught:
        CODEC.decode(operation)
    return {(violation.field, violation.rule) for violation in caught.value.violations}


def test_a_good_operation_is_read() -> None:
    """There and back through an Any, nothing changes."""
    operation = operation_from(packed(transfer()))
    assert transfer() == CODEC.decode(operation)
    assert packed(transfer()) == any_from(operation)


def test_only_the_name_in_a_type_url_counts() -> None:
    """The host before it is anybody's choice."""
    value = transfer().SerializeToString()
    assert transfer() == CODEC.decode(Operation(f"example.com/x/{URL.rpartition('/')[2]}", value))


@pytest.mark.parametrize("type_url", ["", "x", "type.googleapis.com/tallystick.type.v1.Money"])
def test_another_type_is_refused(type_url: str) -> None:
    """A participant reads one type of operation."""
    assert {("operation", "operation.type")} == broken(Operation(type_url, b""))


def test_unreadable_bytes_are_refused() -> None:
    """Bytes that are no message."""
    assert {("operation", "operation.value")} == broken(Operation(URL, b"\xff\xff"))


def test_the_size_is_limited() -> None:
    """64 KiB are read, one byte more is not even looked at."""
    most = Operation(URL, b"\xff" * OPERATION_SIZE_MAX_BYTES)
    assert {("operation", "operation.value")} == broken(most)
    over = Operation(URL, b"\xff" * (OPERATION_SIZE_MAX_BYTES + 1))
    assert {("operation", "operation.size")} == broken(over)


MONEY = money_pb2.Money


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        (
            {"amount": MONEY(currency_code="eur", amount_minor=1)},
            "operation.amount.currency_code",
            "string.pattern",
        ),
        ({"amount": MONEY(currency_code="EUR")}, "operation.amount", "amount.range"),
        (
            {"amount": MONEY(currency_code="EUR", amount_minor=-1)},
            "operation.amount",
            "amount.range",
        ),
        (
            {"amount": MONEY(currency_code="EUR", amount_minor=10**14 + 1)},
            "operation.amount",
            "amount.range",
        ),
        ({"amount": None}, "operation.amount", "required"),
        ({"debit_account_id": ""}, "operation.debit_account_id", "string.min_len"),
        ({"debit_account_id": "x" * 65}, "operation.debit_account_id", "string.max_len"),
        ({"debit_account_id": "a b"}, "operation.debit_account_id", "string.pattern"),
        ({"debit_account_id": "shop"}, "operation", "transfer.accounts_differ"),
        ({"reference": "x" * 65}, "operation.reference", "string.max_len"),
    ],
)
def test_rules_name_the_field(changes: dict[str, Any], field: str, rule: str) -> None:
    """A broken rule is named with its path, from the operation down."""
    operation = operation_from(packed(transfer(**changes)))
    assert (field, rule) in broken(operation)


def test_the_largest_amount_is_read() -> None:
    """10^14 minor units are allowed."""
    most = transfer(amount=MONEY(currency_code="EUR", amount_minor=10**14))
    assert most == CODEC.decode(operation_from(packed(most)))


def test_a_quick_yes_is_believed_and_a_quick_no_is_not() -> None:
    """What is surely valid is not looked through; of the rest protovalidate has the last word."""
    codec = OperationCodec(ledger_service_pb2.TransferOperation, lambda message: message == wrong)
    wrong = transfer(reference="x" * 65)
    assert wrong == codec.decode(operation_from(packed(wrong)))
    assert transfer() == codec.decode(operation_from(packed(transfer())))
    with pytest.raises(InvalidOperation):
        codec.decode(operation_from(packed(transfer(reference="y" * 65))))
