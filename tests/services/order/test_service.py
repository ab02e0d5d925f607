"""OrderService over a real server and a real file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf import duration_pb2
from tallystick.order.v1 import order_service_pb2 as pb
from tallystick.order.v1 import order_service_pb2_grpc
from tallystick.type.v1 import money_pb2

from services.edge import Edge
from services.order import trades
from services.order.service import OrderConfig, OrderServicer
from services.order.state import TradeState
from tests.services.rig import open_store
from tests.support.postgres import PostgresServer
from tests.txn.helpers import FastClock
from tests.txn.rpc.rig import details, failed, served
from txn.store.group_commit import Store
from txn.store.sql import Sql

Code = grpc.StatusCode
Stub: TypeAlias = "order_service_pb2_grpc.OrderServiceAsyncStub"
US = 1_000_000


class Rig:
    """The service, its clock, and the trades behind it."""

    def __init__(self, stub: Stub, store: Store[Sql], clock: FastClock) -> None:
        self.stub = stub
        self.store = store
        self.clock = clock

    async def create(self, **changes: Any) -> pb.Trade:
        """A trade."""
        return (await self.stub.CreateTrade(wanted(**changes))).trade

    async def get(self, trade_no: str = "n1") -> pb.Trade:
        """The trade as it shows."""
        return (await self.stub.GetTrade(pb.GetTradeRequest(trade_no=trade_no))).trade

    async def close(self, trade_no: str = "n1") -> pb.Trade:
        """Closes it."""
        return (await self.stub.CloseTrade(pb.CloseTradeRequest(trade_no=trade_no))).trade

    async def put(self, state: TradeState) -> None:
        """Puts the trade into a state behind the service's back."""

        def work(tx: Any) -> None:
            tx.execute("UPDATE trade SET state = ?", (state.value,))

        await self.store.write(work)


def wanted(**changes: Any) -> pb.CreateTradeRequest:
    """A request for a trade, with changes."""
    fields: dict[str, Any] = {
        "merchant_id": "m",
        "out_trade_no": "o",
        "subject": "tea",
        "amount": money_pb2.Money(currency_code="EUR", amount_minor=100),
        "payee_account_id": "shop",
        **changes,
    }
    return pb.CreateTradeRequest(**fields)


@pytest_asyncio.fixture
async def rig(tmp_path: Path, database: PostgresServer | None) -> AsyncIterator[Rig]:
    """An order service whose trades are n1, n2..."""
    clock = FastClock()
    names = (f"n{number}" for number in range(1, 1_000))
    async with open_store("order", tmp_path, database) as store:

        def add(server: grpc.aio.Server) -> None:
            servicer = OrderServicer(
                store, clock, lambda: next(names), OrderConfig(close_wait_s=1.0, close_look_s=0.1)
            )
            order_service_pb2_grpc.add_OrderServiceServicer_to_server(servicer, server)

        async with served(add, interceptors=[Edge()]) as channel:
            yield Rig(order_service_pb2_grpc.OrderServiceStub(channel), store, clock)


async def test_a_new_trade(rig: Rig) -> None:
    """Waits to be paid for 15 minutes, and has a QR code that names it."""
    trade = await rig.create()
    assert ("n1", pb.TRADE_STATE_WAIT_BUYER_PAY, "tallystick://pay/n1") == (
        trade.trade_no,
        trade.state,
        trade.qr_code,
    )
    assert rig.clock.utc == trade.create_time.ToMicroseconds()
    assert rig.clock.utc + 900 * US == trade.expire_time.ToMicroseconds()
    assert not trade.HasField("success_time")
    by_name = pb.MerchantTradeName(merchant_id="m", out_trade_no="o")
    found = await rig.stub.GetTrade(pb.GetTradeRequest(merchant_trade=by_name))
    assert trade == found.trade == await rig.get()


async def test_a_repeated_request_returns_the_first_trade(rig: Rig) -> None:
    """Idempotent by the merchant's own number, also later and when the trade has moved on."""
    first = await rig.create()
    rig.clock.utc += US
    assert first == await rig.create()
    await rig.put(TradeState.TRADE_SUCCESS)
    assert pb.TRADE_STATE_TRADE_SUCCESS == (await rig.create()).state


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "coffee"},
        {"amount": money_pb2.Money(currency_code="EUR", amount_minor=101)},
        {"amount": money_pb2.Money(currency_code="USD", amount_minor=100)},
        {"payee_account_id": "other"},
        {"valid_for": duration_pb2.Duration(seconds=60)},
    ],
)
async def test_the_same_number_for_another_trade_conflicts(
    rig: Rig, changes: dict[str, Any]
) -> None:
    """Never the old success for another request."""
    first = await rig.create()
    error = await failed(rig.create(**changes))
    assert (Code.ALREADY_EXISTS, "OUT_TRADE_NO_USED") == (error.code(), details(error)[0])
    assert first == await rig.get()


async def test_merchants_do_not_share_numbers(rig: Rig) -> None:
    """Each has its own."""
    assert "n1" == (await rig.create()).trade_no
    assert "n2" == (await rig.create(merchant_id="other")).trade_no


async def test_requests_at_once_make_one_trade(rig: Rig) -> None:
    """However many arrive together."""
    made = await asyncio.gather(*[rig.create() for _ in range(10)])
    assert 1 == len({trade.trade_no for trade in made})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount": None}, "amount"),
        ({"amount": money_pb2.Money(currency_code="EUR")}, "amount"),
        ({"amount": money_pb2.Money(currency_code="EUR", amount_minor=-1)}, "amount"),
        ({"amount": money_pb2.Money(currency_code="EUR", amount_minor=10**14 + 1)}, "amount"),
        (
            {"amount": money_pb2.Money(currency_code="ZZZ", amount_minor=1)},
            "amount.currency_code",
        ),
        ({"out_trade_no": ""}, "out_trade_no"),
        ({"merchant_id": "x" * 65}, "merchant_id"),
        ({"subject": ""}, "subject"),
        ({"valid_for": duration_pb2.Duration(seconds=0)}, "valid_for"),
        ({"valid_for": duration_pb2.Duration(seconds=86_401)}, "valid_for"),
    ],
)
async def test_malformed_trades(rig: Rig, changes: dict[str, Any], field: str) -> None:
    """Refused with the field's name, and no row is written."""
    error = await failed(rig.create(**changes))
    assert (Code.INVALID_ARGUMENT, {field}) == (error.code(), set(details(error)[1]))
    assert [] == await rig.store.read(lambda tx: tx.execute("SELECT * FROM trade").fetchall())


async def test_an_expired_trade_shows_as_closed(rig: Rig) -> None:
    """By UTC, at the moment, without anybody having written it."""
    await rig.create(valid_for=duration_pb2.Duration(seconds=60))
    rig.clock.utc += 60 * US - 1
    assert pb.TRADE_STATE_WAIT_BUYER_PAY == (await rig.get()).state
    rig.clock.utc += 1
    assert pb.TRADE_STATE_TRADE_CLOSED == (await rig.get()).state


async def test_closing(rig: Rig) -> None:
    """Closed for good, and the same when repeated, or when it had expired."""
    await rig.create()
    for _ in range(2):
        assert pb.TRADE_STATE_TRADE_CLOSED == (await rig.close()).state
    await rig.create(out_trade_no="o2")
    rig.clock.utc += 3_600 * US
    assert pb.TRADE_STATE_TRADE_CLOSED == (await rig.close("n2")).state


async def test_a_paid_trade_cannot_be_closed(rig: Rig) -> None:
    """The merchant is told that it is paid."""
    await rig.create()
    await rig.put(TradeState.TRADE_SUCCESS)
    error = await failed(rig.close())
    assert (Code.FAILED_PRECONDITION, "TRADE_PAID") == (error.code(), details(error)[0])


async def test_closing_waits_for_a_payment_under_way(rig: Rig) -> None:
    """Not for ever: then the merchant may try again."""
    await rig.create()
    await rig.put(TradeState.PAYING)
    error = await failed(rig.close())
    assert (Code.ABORTED, "TRADE_PAYING") == (error.code(), details(error)[0])
    assert rig.clock.now_s >= 1.0
    assert pb.TRADE_STATE_PAYING == (await rig.get()).state


async def test_closing_goes_on_when_the_payment_was_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trade is free again while CloseTrade waits, and is closed then."""
    await rig.create()
    await rig.put(TradeState.PAYING)

    async def sleep(seconds: float) -> None:
        await rig.put(TradeState.WAIT_BUYER_PAY)

    monkeypatch.setattr(rig.clock, "sleep", sleep)
    assert pb.TRADE_STATE_TRADE_CLOSED == (await rig.close()).state


async def test_unknown_trades(rig: Rig) -> None:
    """NOT_FOUND, by any name and for any purpose."""
    by_name = pb.MerchantTradeName(merchant_id="m", out_trade_no="unseen")
    for call in (
        rig.get("unseen"),
        rig.close("unseen"),
        rig.stub.GetTrade(pb.GetTradeRequest(merchant_trade=by_name)),
    ):
        error = await failed(call)
        assert (Code.NOT_FOUND, "TRADE_NOT_FOUND") == (error.code(), details(error)[0])


async def test_a_trade_is_written_back_whole(rig: Rig) -> None:
    """What is saved is what is found."""
    await rig.create()
    found = await rig.store.read(lambda tx: trades.find(tx, "n1"))
    assert found is not None
    paying = found.moved(TradeState.PAYING)
    await rig.store.write(lambda tx: trades.save(tx, paying))
    assert paying == await rig.store.read(lambda tx: trades.find_by_merchant(tx, "m", "o"))
