"""Payments over a real mesh: what a caller sees, and what both books say afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import grpc
import pytest
from google.protobuf import duration_pb2
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.order.v1 import order_service_pb2
from tallystick.txn.v1 import coordinator_service_pb2

from tests.support.books import books_agree
from tests.support.mesh import (
    CALL_TIMEOUT_S,
    PASSWORD,
    Mesh,
    Shop,
    euros,
    packed,
    transfer,
)
from tests.support.waiting import eventually
from txn.rpc import reason_of


async def _refused(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), reason_of(caught.value)


async def test_payment_is_in_both_books(shop: Shop) -> None:
    """A confirmed payment makes the trade a success and posts one entry with two postings."""
    trade = await shop.trade(1_230)
    paid = await shop.pay(trade)

    assert await shop.state_of(trade) == "TRADE_SUCCESS"
    reply = await shop.mesh.ledger.ListEntries(
        ledger_service_pb2.ListEntriesRequest(txn_id=paid.txn_id), timeout=CALL_TIMEOUT_S
    )
    postings = [
        (p.account_id, ledger_service_pb2.Direction.Name(p.direction), p.amount.amount_minor)
        for entry in reply.entries
        for p in entry.postings
    ]
    assert [
        (shop.payer, "DIRECTION_DEBIT", 1_230),
        (shop.merchant, "DIRECTION_CREDIT", 1_230),
    ] == postings
    balance = await shop.mesh.ledger.GetTrialBalance(
        ledger_service_pb2.GetTrialBalanceRequest(), timeout=CALL_TIMEOUT_S
    )
    assert balance.balanced
    await books_agree(shop.mesh)


async def test_repeated_payment_has_one_effect(shop: Shop) -> None:
    """The same request again, at once and later, gives the same transaction and moves no money."""
    trade = await shop.trade(500)
    first, second = await asyncio.gather(shop.pay(trade), shop.pay(trade))
    third = await shop.pay(trade)
    assert {first.txn_id} == {second.txn_id, third.txn_id}
    assert (await shop.balance(shop.merchant)).posted_minor == 500


async def test_two_payments_of_one_trade_charge_once(shop: Shop) -> None:
    """Of two payments of one trade under different keys one succeeds and one is refused."""
    trade = await shop.trade(500)
    results = await asyncio.gather(
        shop.pay(trade, key="one"), shop.pay(trade, key="two"), return_exceptions=True
    )
    refusals = [reason_of(r) for r in results if isinstance(r, grpc.aio.AioRpcError)]
    # Refused after waiting for an older one, or at once because of a younger one.
    assert refusals in (["TRADE_PAID"], ["TRADE_PAYING"])
    assert (await shop.balance(shop.merchant)).posted_minor == 500
    await books_agree(shop.mesh)


async def test_payment_without_funds_leaves_both_books_as_they_were(shop: Shop) -> None:
    """INSUFFICIENT_FUNDS changes no balance, and the trade can still be paid."""
    trade = await shop.trade(10**9)
    refused = await _refused(shop.pay(trade))
    again = await _refused(shop.pay(trade))

    assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_FUNDS")
    assert again == refused
    assert await shop.state_of(trade) == "WAIT_BUYER_PAY"
    account = await shop.balance(shop.payer)
    assert (account.posted_minor, account.held_minor) == (100_000, 0)


async def test_many_payers_of_one_merchant_leave_exact_sums(shared_mesh: Mesh) -> None:
    """Concurrent payments to one account add up to the cent."""
    shop = await Shop(shared_mesh).open()
    trades = [await shop.trade(7) for _ in range(12)]
    await asyncio.gather(*(shop.pay(trade) for trade in trades))
    assert (await shop.balance(shop.merchant)).posted_minor == 84
    assert (await shop.balance(shop.payer)).posted_minor == 100_000 - 84


async def test_racing_payments_never_overdraw(shop: Shop) -> None:
    """Of payments that together exceed the balance only those that fit succeed."""
    trades = [await shop.trade(40_000) for _ in range(4)]
    results = await asyncio.gather(*(shop.pay(t) for t in trades), return_exceptions=True)
    succeeded = [r for r in results if not isinstance(r, BaseException)]
    assert len(succeeded) == 2
    assert (await shop.balance(shop.payer)).available_minor == 20_000
    await books_agree(shop.mesh)


async def test_wrong_password_and_unknown_user_are_the_same_answer(shop: Shop) -> None:
    """Nobody learns from a refusal which part was wrong, and no transaction is begun."""
    trade = await shop.trade()
    with pytest.raises(grpc.aio.AioRpcError) as wrong:
        await shop.pay(trade, password="wrong")
    shop.user_id = "nobody"
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await shop.pay(trade, password=PASSWORD)

    assert wrong.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (unknown.value.code(), unknown.value.details(), reason_of(unknown.value)) == (
        wrong.value.code(),
        wrong.value.details(),
        reason_of(wrong.value),
    )
    assert await shop.state_of(trade) == "WAIT_BUYER_PAY"


async def test_expired_trade_is_not_paid(shop: Shop) -> None:
    """After its time a trade shows as closed and a payment of it is refused."""
    reply = await shop.mesh.order.CreateTrade(
        order_service_pb2.CreateTradeRequest(
            merchant_id=shop.merchant,
            out_trade_no="short",
            subject="a melting ice cream",
            amount=euros(100),
            payee_account_id=shop.merchant,
            valid_for=duration_pb2.Duration(seconds=1),
        ),
        timeout=CALL_TIMEOUT_S,
    )

    async def closed() -> bool:
        return await shop.state_of(reply.trade) == "TRADE_CLOSED"

    await eventually(closed, timeout_s=10, what="expiry")
    refused = await _refused(shop.pay(reply.trade))
    assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "TRADE_EXPIRED")


async def test_closed_trade_is_not_paid_and_paid_trade_is_not_closed(shop: Shop) -> None:
    """Closing and paying exclude each other."""
    close = shop.mesh.order.CloseTrade
    closed, paid = await shop.trade(), await shop.trade()
    await close(order_service_pb2.CloseTradeRequest(trade_no=closed.trade_no), timeout=9)
    await close(order_service_pb2.CloseTradeRequest(trade_no=closed.trade_no), timeout=9)
    await shop.pay(paid)

    assert await _refused(shop.pay(closed)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "TRADE_CLOSED",
    )
    request = order_service_pb2.CloseTradeRequest(trade_no=paid.trade_no)
    assert await _refused(close(request, timeout=9)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "TRADE_PAID",
    )


async def test_payer_as_payee_is_refused(shop: Shop) -> None:
    """A user cannot pay a trade whose payee is the user's own account."""
    shop.merchant = shop.payer
    trade = await shop.trade()
    assert await _refused(shop.pay(trade)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "PAYER_IS_PAYEE",
    )


async def test_idempotency_key_with_other_branches_is_refused(shop: Shop) -> None:
    """A key stands for one request; another request under it gets ALREADY_EXISTS, never success."""
    execute = shop.mesh.coordinator.Execute
    request = coordinator_service_pb2.ExecuteRequest(
        idempotency_key=f"other:{shop.user_id}", branches=[transfer(shop.bank, shop.payer, 100)]
    )
    first = await execute(request, timeout=CALL_TIMEOUT_S)
    request.branches[0].CopyFrom(transfer(shop.bank, shop.payer, 101))
    refused = await _refused(execute(request, timeout=CALL_TIMEOUT_S))

    assert first.outcome == coordinator_service_pb2.OUTCOME_COMMITTED
    assert refused == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_CONFLICT")
    assert (await shop.balance(shop.payer)).posted_minor == 100_100


async def test_unseen_key_is_not_found(shop: Shop) -> None:
    """NOT_FOUND for a key says that a retry is safe."""
    request = coordinator_service_pb2.GetTransactionRequest(idempotency_key="never seen")
    code, _ = await _refused(shop.mesh.coordinator.GetTransaction(request, timeout=9))
    assert code is grpc.StatusCode.INVALID_ARGUMENT  # a blank is not printable ASCII
    request = coordinator_service_pb2.GetTransactionRequest(idempotency_key="never-seen")
    code, _ = await _refused(shop.mesh.coordinator.GetTransaction(request, timeout=9))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_participant_not_on_the_list_is_refused_before_anything_begins(shop: Shop) -> None:
    """The coordinator calls no service that a caller makes up."""
    branch = coordinator_service_pb2.Branch(
        branch_id="b", participant="wallet", operation=packed(euros(1))
    )
    request = coordinator_service_pb2.ExecuteRequest(
        idempotency_key=f"made-up:{shop.user_id}", branches=[branch]
    )
    refused = await _refused(shop.mesh.coordinator.Execute(request, timeout=CALL_TIMEOUT_S))
    assert refused == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_PARTICIPANT")
