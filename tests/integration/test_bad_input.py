"""Bad requests at the real services: a clear status, the field and the rule, and no row written."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.order.v1 import order_service_pb2
from tallystick.txn.v1 import coordinator_service_pb2, participant_service_pb2
from tallystick.type.v1 import money_pb2
from tallystick.wallet.v1 import wallet_service_pb2

from tests.support.mesh import CALL_TIMEOUT_S, SERVICES, Mesh, packed, transfer

INT64_MAX = 2**63 - 1


def _trade(**changes: object) -> order_service_pb2.CreateTradeRequest:
    fields: dict[str, object] = {
        "merchant_id": "m",
        "out_trade_no": "1",
        "subject": "tea",
        "amount": money_pb2.Money(currency_code="EUR", amount_minor=100),
        "payee_account_id": "shop",
    }
    return order_service_pb2.CreateTradeRequest(**{**fields, **changes})  # type: ignore[arg-type]


def _money(code: str, amount_minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code=code, amount_minor=amount_minor)


def _execute(**changes: object) -> coordinator_service_pb2.ExecuteRequest:
    fields: dict[str, object] = {"idempotency_key": "k", "branches": [transfer("a", "b", 1)]}
    return coordinator_service_pb2.ExecuteRequest(**{**fields, **changes})  # type: ignore[arg-type]


def _prepare(operation: Message, **changes: object) -> participant_service_pb2.PrepareRequest:
    fields: dict[str, object] = {
        "txn_id": "bad-input",
        "branch_id": "b",
        "coordinator": "coordinator",
        "operation": packed(operation),
    }
    return participant_service_pb2.PrepareRequest(**{**fields, **changes})  # type: ignore[arg-type]


def _transfer(
    amount: money_pb2.Money, debit: str = "a", credit: str = "b"
) -> ledger_service_pb2.TransferOperation:
    return ledger_service_pb2.TransferOperation(
        debit_account_id=debit, credit_account_id=credit, amount=amount
    )


ORDER = "/tallystick.order.v1.OrderService/CreateTrade"
ACCOUNT = "/tallystick.ledger.v1.LedgerService/CreateAccount"
PREPARE = "/tallystick.txn.v1.ParticipantService/Prepare"
BRANCHES = "/tallystick.txn.v1.ParticipantService/ListBranches"
TRANSACTIONS = "/tallystick.txn.v1.CoordinatorService/ListTransactions"
EXECUTE = "/tallystick.txn.v1.CoordinatorService/Execute"
USER = "/tallystick.wallet.v1.WalletService/CreateUser"
CONFIRM = "/tallystick.wallet.v1.WalletService/ConfirmPayment"

# (name, process, method, request, field that is to blame)
BAD: list[tuple[str, str, str, Message, str]] = [
    ("amount zero", "order", ORDER, _trade(amount=_money("EUR", 0)), "amount"),
    ("amount negative", "order", ORDER, _trade(amount=_money("EUR", -1)), "amount"),
    ("amount huge", "order", ORDER, _trade(amount=_money("EUR", INT64_MAX)), "amount"),
    ("amount missing", "order", ORDER, _trade(amount=None), "amount"),
    ("currency missing", "order", ORDER, _trade(amount=_money("", 1)), "amount.currency_code"),
    ("currency lower", "order", ORDER, _trade(amount=_money("eur", 1)), "amount.currency_code"),
    ("currency unknown", "order", ORDER, _trade(amount=_money("ZZZ", 1)), "amount.currency_code"),
    ("merchant missing", "order", ORDER, _trade(merchant_id=""), "merchant_id"),
    ("merchant oversized", "order", ORDER, _trade(merchant_id="m" * 65), "merchant_id"),
    ("out_trade_no with a blank", "order", ORDER, _trade(out_trade_no="a b"), "out_trade_no"),
    ("out_trade_no with a newline", "order", ORDER, _trade(out_trade_no="a\n"), "out_trade_no"),
    ("subject with a NUL", "order", ORDER, _trade(subject="a\0"), "subject"),
    (
        "reference with a NUL",
        "ledger",
        PREPARE,
        _prepare(
            ledger_service_pb2.TransferOperation(
                debit_account_id="a",
                credit_account_id="b",
                amount=_money("EUR", 1),
                reference="a\0",
            )
        ),
        "operation.reference",
    ),
    (
        "page of branches with a NUL",
        "ledger",
        BRANCHES,
        participant_service_pb2.ListBranchesRequest(page_token="a\0/b"),
        "page_token",
    ),
    (
        "page of transactions with a NUL",
        "coordinator",
        TRANSACTIONS,
        coordinator_service_pb2.ListTransactionsRequest(page_token="a\0"),
        "page_token",
    ),
    ("payee missing", "order", ORDER, _trade(payee_account_id=""), "payee_account_id"),
    (
        "account currency unknown",
        "ledger",
        ACCOUNT,
        ledger_service_pb2.CreateAccountRequest(account_id="bad", currency_code="ZZZ"),
        "currency_code",
    ),
    (
        "account limit above zero",
        "ledger",
        ACCOUNT,
        ledger_service_pb2.CreateAccountRequest(
            account_id="bad", currency_code="EUR", limit_minor=1
        ),
        "limit_minor",
    ),
    (
        "payer is payee",
        "ledger",
        PREPARE,
        _prepare(_transfer(_money("EUR", 1), debit="a", credit="a")),
        "operation",
    ),
    (
        "transfer of nothing",
        "ledger",
        PREPARE,
        _prepare(_transfer(_money("EUR", 0))),
        "operation.amount",
    ),
    (
        "transfer over the limit",
        "ledger",
        PREPARE,
        _prepare(_transfer(_money("EUR", 10**14 + 1))),
        "operation.amount",
    ),
    (
        "another's operation",
        "ledger",
        PREPARE,
        _prepare(order_service_pb2.PayTradeOperation()),
        "operation",
    ),
    (
        "no operation",
        "ledger",
        PREPARE,
        participant_service_pb2.PrepareRequest(
            txn_id="bad-input", branch_id="b", coordinator="coordinator"
        ),
        "operation",
    ),
    (
        "txn_id oversized",
        "ledger",
        PREPARE,
        _prepare(_transfer(_money("EUR", 1)), txn_id="t" * 65),
        "txn_id",
    ),
    ("key missing", "coordinator", EXECUTE, _execute(idempotency_key=""), "idempotency_key"),
    ("key huge", "coordinator", EXECUTE, _execute(idempotency_key="k" * 201), "idempotency_key"),
    ("key with a NUL", "coordinator", EXECUTE, _execute(idempotency_key="\0"), "idempotency_key"),
    ("no branches", "coordinator", EXECUTE, _execute(branches=[]), "branches"),
    (
        "two branches of one name",
        "coordinator",
        EXECUTE,
        _execute(branches=[transfer("a", "b", 1), transfer("a", "c", 1)]),
        "branches",
    ),
    (
        "executed amount zero",
        "coordinator",
        EXECUTE,
        _execute(branches=[transfer("a", "b", 0)]),
        "branches[0].operation.amount",
    ),
    (
        "executed payer is payee",
        "coordinator",
        EXECUTE,
        _execute(branches=[transfer("a", "a", 1)]),
        "branches[0].operation",
    ),
    (
        "executed operation huge",
        "coordinator",
        EXECUTE,
        _execute(branches=[transfer("a" * 70_000, "b", 1)]),
        "branches[0].operation",
    ),
    ("unknown wait_for", "coordinator", EXECUTE, _execute(wait_for=99), "wait_for"),
    (
        "password short",
        "wallet",
        USER,
        wallet_service_pb2.CreateUserRequest(
            user_id="u", payment_password="12345", currency_code="EUR", idempotency_key="k"
        ),
        "payment_password",
    ),
    (
        "confirmation without a key",
        "wallet",
        CONFIRM,
        wallet_service_pb2.ConfirmPaymentRequest(
            user_id="u", trade_no="t", payment_password="secret"
        ),
        "idempotency_key",
    ),
]


def _contents(mesh: Mesh) -> dict[str, list[tuple[object, ...]]]:
    return {
        f"{service}.{table}": mesh.rows(service, f'SELECT * FROM "{table}"')
        for service in SERVICES
        for table in mesh.tables(service)
    }


async def _call(mesh: Mesh, process: str, method: str, body: bytes) -> grpc.aio.AioRpcError:
    identity: Callable[[bytes], bytes] = bytes
    async with grpc.aio.insecure_channel(mesh.processes[f"{process}-0"].address) as channel:
        call = channel.unary_unary(
            method, request_serializer=identity, response_deserializer=identity
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(body, timeout=CALL_TIMEOUT_S)
    return caught.value


@pytest.mark.parametrize(
    ("process", "method", "request_", "field"),
    [row[1:] for row in BAD],
    ids=[row[0].replace(" ", "-") for row in BAD],
)
async def test_bad_request_names_the_field_and_writes_nothing(
    shared_mesh: Mesh, process: str, method: str, request_: Message, field: str
) -> None:
    """INVALID_ARGUMENT, a BadRequest that names the field, and the same rows as before."""
    before = _contents(shared_mesh)
    error = await _call(shared_mesh, process, method, request_.SerializeToString())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    fields = []
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
    assert field in fields
    assert before == _contents(shared_mesh)


async def test_malformed_protobuf_is_refused_without_a_trace(shared_mesh: Mesh) -> None:
    """Bytes that are no message get INTERNAL and nothing of the inside."""
    error = await _call(shared_mesh, "order", ORDER, b"\xff\xff\xff")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "Traceback" not in str(error.details())


async def test_oversized_message_is_refused(shared_mesh: Mesh) -> None:
    """A message over 4 MiB gets RESOURCE_EXHAUSTED."""
    error = await _call(
        shared_mesh, "order", ORDER, _trade(subject="x" * 5_000_000).SerializeToString()
    )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_commit_of_an_unknown_branch_is_an_alarm(shared_mesh: Mesh) -> None:
    """A commit that was never prepared is FAILED_PRECONDITION, and leaves no row."""
    before = _contents(shared_mesh)
    request = participant_service_pb2.CommitRequest(txn_id="never", branch_id="b")
    method = "/tallystick.txn.v1.ParticipantService/Commit"
    error = await _call(shared_mesh, "ledger", method, request.SerializeToString())
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert before == _contents(shared_mesh)
