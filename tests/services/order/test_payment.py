"""Trades: their states, and the branch that pays them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import pytest
import pytest_asyncio
from tallystick.order.v1 import order_service_pb2 as pb
from tallystick.type.v1 import money_pb2

from services.order import trades
from services.order.payment import TRADE_EXPIRED, TRADE_MISMATCH, TRADE_NOT_FOUND, PayTradeResource
from services.order.state import TRADE_MOVES, TradeState
from services.order.trades import Trade
from tests.services.rig import open_store
from tests.support.postgres import PostgresServer
from tests.txn.helpers import FastClock, key
from txn.errors import Busy, Refused
from txn.resource import Item
from txn.state import IllegalTransition, move
from txn.store.group_commit import Store
from txn.store.sql import Sql

S = TradeState
LEGAL = {
    (S.WAIT_BUYER_PAY, S.PAYING),
    (S.WAIT_BUYER_PAY, S.TRADE_CLOSED),
    (S.PAYING, S.TRADE_SUCCESS),
    (S.PAYING, S.WAIT_BUYER_PAY),
}


@pytest.mark.parametrize(("at", "to"), list(product(S, S)))
def test_moves(at: TradeState, to: TradeState) -> None:
    """A trade moves as the table says and in no other way."""
    if (at, to) in LEGAL:
        assert to is move(TRADE_MOVES, at, to)
    else:
        with pytest.raises(IllegalTransition):
            move(TRADE_MOVES, at, to)


class Orders:
    """A store of trades with the three moves of a payment."""

    def __init__(self, store: Store[Sql]) -> None:
        self.store = store
        self.clock = FastClock()
        self.resource = PayTradeResource(self.clock)

    async def create(self, state: TradeState = S.WAIT_BUYER_PAY) -> Trade:
        """A trade over 100 EUR cents that expires in a second."""
        trade = Trade(
            trade_no="n1",
            merchant_id="m",
            out_trade_no="o",
            subject="tea",
            currency_code="EUR",
            amount_minor=100,
            payee_account_id="shop",
            state=state,
            txn_id="",
            payer_account_id="",
            valid_for_us=1_000_000,
            created_at_us=self.clock.utc,
            expires_at_us=self.clock.utc + 1_000_000,
            paid_at_us=None,
        )
        return await self.store.write(lambda tx: trades.create(tx, trade))

    async def trade(self) -> Trade:
        """The trade as it stands."""
        found = await self.store.read(lambda tx: trades.find(tx, "n1"))
        assert found is not None
        return found

    async def prepare(self, operation: pb.PayTradeOperation, txn_id: str = "t1") -> str:
        """Takes the trade; the reason when refused, else nothing."""
        items = [Item(key(txn_id), operation)]
        (vote,) = await self.store.write(lambda tx: self.resource.prepare_all(tx, items))
        if isinstance(vote, Busy):
            raise vote
        return vote.reason if isinstance(vote, Refused) else ""

    async def commit(self) -> None:
        """The trade is paid."""
        await self.store.write(lambda tx: self.resource.commit_all(tx, [Item(key(), pay())]))

    async def abort(self) -> None:
        """The trade is free again."""
        await self.store.write(lambda tx: self.resource.abort_all(tx, [Item(key(), pay())]))


def pay(
    trade_no: str = "n1", amount_minor: int = 100, code: str = "EUR", payee: str = "shop"
) -> pb.PayTradeOperation:
    """The payment that the trade asks for, with changes."""
    return pb.PayTradeOperation(
        trade_no=trade_no,
        amount=money_pb2.Money(currency_code=code, amount_minor=amount_minor),
        payee_account_id=payee,
        payer_account_id="user:a",
    )


@pytest_asyncio.fixture
async def orders(tmp_path: Path, database: PostgresServer | None) -> AsyncIterator[Orders]:
    """A store of trades."""
    async with open_store("order", tmp_path, database) as store:
        yield Orders(store)


async def test_a_prepared_trade_is_paying(orders: Orders) -> None:
    """The trade belongs to the transaction and shows who pays."""
    await orders.create()
    assert "" == await orders.prepare(pay())
    trade = await orders.trade()
    assert (S.PAYING, "t1", "user:a") == (trade.state, trade.txn_id, trade.payer_account_id)


async def test_commit_pays(orders: Orders) -> None:
    """Paid, by whom, when, and by which transaction; also when it expired meanwhile."""
    await orders.create()
    await orders.prepare(pay())
    orders.clock.utc += 5_000_000
    await orders.commit()
    trade = await orders.trade()
    assert (S.TRADE_SUCCESS, "t1", "user:a") == (trade.state, trade.txn_id, trade.payer_account_id)
    assert orders.clock.utc == trade.paid_at_us


async def test_abort_frees(orders: Orders) -> None:
    """As before, and another transaction may have it."""
    created = await orders.create()
    await orders.prepare(pay())
    await orders.abort()
    assert created == await orders.trade()
    assert "" == await orders.prepare(pay(), "t2")


async def test_a_trade_that_an_older_transaction_has_is_busy(orders: Orders) -> None:
    """The older one's outcome is not known yet: a younger one waits, and nothing is changed."""
    await orders.create()
    await orders.prepare(pay(), "t1")
    taken = await orders.trade()
    with pytest.raises(Busy, match="TRADE_PAYING"):
        await orders.prepare(pay(), "t2")
    assert "TRADE_PAYING" == await orders.prepare(pay(), "t0")
    assert taken == await orders.trade()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (S.TRADE_SUCCESS, "TRADE_PAID"),
        (S.TRADE_CLOSED, "TRADE_CLOSED"),
    ],
)
async def test_a_trade_in_another_state_is_refused(
    orders: Orders, state: TradeState, reason: str
) -> None:
    """The reason says which, and takes precedence over the rest."""
    created = await orders.create(state)
    orders.clock.utc += 5_000_000
    assert reason == await orders.prepare(pay(amount_minor=1))
    assert created == await orders.trade()


@pytest.mark.parametrize(
    "operation",
    [pay(amount_minor=99), pay(amount_minor=101), pay(code="USD"), pay(payee="thief")],
)
async def test_another_payment_than_agreed_is_refused(
    orders: Orders, operation: pb.PayTradeOperation
) -> None:
    """What the payer agreed to must be what the merchant asked for."""
    await orders.create()
    assert TRADE_MISMATCH == await orders.prepare(operation)


async def test_an_unknown_trade_is_refused(orders: Orders) -> None:
    """Nothing to pay."""
    assert TRADE_NOT_FOUND == await orders.prepare(pay("unseen"))


@pytest.mark.parametrize(("late_us", "reason"), [(999_999, ""), (1_000_000, TRADE_EXPIRED)])
async def test_expiry_follows_utc(orders: Orders, late_us: int, reason: str) -> None:
    """Payable until the last microsecond before expire_time, and not at it."""
    await orders.create()
    orders.clock.utc += late_us
    assert reason == await orders.prepare(pay())


async def test_what_is_under_way_does_not_expire(orders: Orders) -> None:
    """A trade being paid waits for its outcome, whatever the time; freed, it is expired."""
    await orders.create()
    await orders.prepare(pay())
    orders.clock.utc += 5_000_000
    assert not (await orders.trade()).expired(orders.clock.utc)
    await orders.abort()
    assert (await orders.trade()).expired(orders.clock.utc)


async def test_the_items_of_a_batch_see_each_other(orders: Orders) -> None:
    """A trade that one item has taken is in the way of the next; an unknown one harms nobody."""
    await orders.create()
    items = [
        Item(key("t0"), pay("nowhere")),
        Item(key("t1"), pay()),
        Item(key("t2"), pay()),
        Item(key("t0", "b"), pay()),
    ]
    votes = await orders.store.write(lambda tx: orders.resource.prepare_all(tx, items))
    assert ["Refused", "Vote", "Busy", "Refused"] == [type(vote).__name__ for vote in votes]
    assert (S.PAYING, "t1") == ((await orders.trade()).state, (await orders.trade()).txn_id)
    with pytest.raises(LookupError):
        await orders.store.write(lambda tx: orders.resource.commit_all(tx, items[:2]))
    await orders.store.write(lambda tx: orders.resource.commit_all(tx, items[1:2]))
    assert S.TRADE_SUCCESS is (await orders.trade()).state
