"""`make demo`: the mesh comes up, one payment goes through, one is refused; then the books.

Every run takes fresh names, so it can be repeated on the same books.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.protobuf import any_pb2
from tallystick.ledger.v1 import ledger_service_pb2 as ledger
from tallystick.order.v1 import order_service_pb2 as order
from tallystick.txn.v1 import coordinator_service_pb2 as txn
from tallystick.wallet.v1 import wallet_service_pb2 as wallet

from services.launcher import mesh
from services.launcher.demo_cast import CURRENCY, Cast, Position, money, shown
from services.launcher.demo_client import Clients, call, connect
from services.launcher.errors import DemoFailed
from services.launcher.settings import Settings
from services.launcher.stage import Stage
from services.launcher.status import MeshStatus
from txn.rpc import reason_of

FUNDS_MINOR = 5_000
PRICE_MINOR = 1_230
TOO_MUCH_MINOR = 9_900
BANK_LIMIT_MINOR = -1_000_000
PASSWORD_BYTES = 12


def run(settings: Settings, replicas: str | None) -> int:
    """Plays the demo and leaves the mesh up; raises LauncherError naming the failed step."""
    stage = Stage()
    found = mesh.up(settings, replicas, stage.tell)
    up_s = stage.elapsed_s
    stage.tell(f"the mesh is up after {up_s:.1f} s\n")
    first_payment_s = asyncio.run(Demo(stage, settings).play(found.etcd))
    _finish(stage, found, settings, first_payment_s)
    return 0


class Demo:
    """The steps, one method each."""

    def __init__(self, stage: Stage, settings: Settings) -> None:
        self._stage = stage
        self._logs = settings.home.logs
        self._cast = Cast(secrets.token_hex(4), secrets.token_urlsafe(PASSWORD_BYTES))

    async def play(self, etcd: tuple[str, ...]) -> float:
        """Plays all steps; returns when the first payment was through, in seconds."""
        async with connect(etcd) as clients:
            await self._open_accounts(clients)
            await self._fund(clients)
            trade = await self._create_trade(clients, "coffee", PRICE_MINOR)
            self._stage.qr(trade.qr_code)
            paid = await self._pay(clients, trade)
            first_payment_s = self._stage.elapsed_s
            await self._show_both_books(clients, trade, paid)
            await self._refuse(clients)
            await self._show_trial_balance(clients)
        return first_payment_s

    async def _open_accounts(self, clients: Clients) -> None:
        cast = self._cast
        with self._step(f"wallet: alice joins; account {cast.payer}, password ********"):
            await call(
                clients.wallet.CreateUser,
                wallet.CreateUserRequest(
                    user_id=cast.user,
                    payment_password=cast.password,
                    currency_code=CURRENCY,
                    idempotency_key=f"user-{cast.run}",
                ),
            )
        for account, limit_minor in ((cast.shop, 0), (cast.bank, BANK_LIMIT_MINOR)):
            with self._step(f"ledger: account {account} opens, limit {shown(limit_minor)}"):
                await call(
                    clients.ledger.CreateAccount,
                    ledger.CreateAccountRequest(
                        account_id=account, currency_code=CURRENCY, limit_minor=limit_minor
                    ),
                )

    async def _fund(self, clients: Clients) -> None:
        cast, operation = self._cast, any_pb2.Any()
        operation.Pack(
            ledger.TransferOperation(
                debit_account_id=cast.bank,
                credit_account_id=cast.payer,
                amount=money(FUNDS_MINOR),
                reference=f"funds-{cast.run}",
            )
        )
        with self._step(f"coordinator: {shown(FUNDS_MINOR)} from {cast.bank} to alice"):
            answer = await call(
                clients.coordinator.Execute,
                txn.ExecuteRequest(
                    idempotency_key=f"funds-{cast.run}",
                    branches=[
                        txn.Branch(branch_id="ledger", participant="ledger", operation=operation)
                    ],
                ),
            )
            if answer.outcome != txn.OUTCOME_COMMITTED:
                raise DemoFailed(f"{txn.Outcome.Name(answer.outcome)} {answer.reason}")

    async def _create_trade(self, clients: Clients, subject: str, amount_minor: int) -> order.Trade:
        cast = self._cast
        with self._step(f"order: the shop asks {shown(amount_minor)} for {subject}"):
            answer = await call(
                clients.order.CreateTrade,
                order.CreateTradeRequest(
                    merchant_id=cast.shop,
                    out_trade_no=f"{subject}-{cast.run}",
                    subject=subject,
                    amount=money(amount_minor),
                    payee_account_id=cast.shop,
                ),
            )
        return answer.trade

    async def _pay(self, clients: Clients, trade: order.Trade) -> wallet.ConfirmPaymentResponse:
        with self._step("wallet: alice confirms: order and ledger in one transaction"):
            answer = await call(clients.wallet.ConfirmPayment, self._confirmation(trade))
            if answer.state != wallet.PAYMENT_STATE_SUCCEEDED:
                raise DemoFailed(wallet.PaymentState.Name(answer.state))
        return answer

    async def _show_both_books(
        self, clients: Clients, trade: order.Trade, paid: wallet.ConfirmPaymentResponse
    ) -> None:
        with self._step("both books: the trade at order, the journal at ledger"):
            position = await self._position(clients, trade)
            entries = await call(
                clients.ledger.ListEntries, ledger.ListEntriesRequest(txn_id=paid.txn_id)
            )
            if position.trade_state != "TRADE_SUCCESS" or not entries.entries:
                raise DemoFailed(f"the books differ: trade {position.trade_state}")
        self._stage.tell(f"    trade {trade.trade_no}  {position.trade_state}")
        self._stage.table(
            f"journal, transaction {paid.txn_id}",
            ("entry", "account", "direction", ">amount", "reference"),
            [
                (
                    str(entry.entry_id),
                    posting.account_id,
                    ledger.Direction.Name(posting.direction).removeprefix("DIRECTION_"),
                    shown(posting.amount.amount_minor),
                    entry.reference,
                )
                for entry in entries.entries
                for posting in entry.postings
            ],
        )

    async def _refuse(self, clients: Clients) -> None:
        trade = await self._create_trade(clients, "bicycle", TOO_MUCH_MINOR)
        with self._step("both books: before"):
            before = await self._position(clients, trade)
        with self._step("wallet: alice cannot afford it: INSUFFICIENT_FUNDS"):
            await self._expect_refusal(clients, trade)
        with self._step("both books: untouched, the trade can still be paid"):
            after = await self._position(clients, trade)
            if after != before:
                raise DemoFailed("a refused payment changed the books")
        self._stage.table(
            "both books, around the refused payment",
            ("when", "trade", ">alice: available", ">held", ">shop: available"),
            [before.row("before"), after.row("after")],
        )

    async def _expect_refusal(self, clients: Clients, trade: order.Trade) -> None:
        try:
            await call(clients.wallet.ConfirmPayment, self._confirmation(trade))
        except grpc.aio.AioRpcError as error:
            if reason_of(error) != "INSUFFICIENT_FUNDS":
                raise
        else:
            raise DemoFailed("a payment without funds went through")

    async def _show_trial_balance(self, clients: Clients) -> None:
        with self._step("ledger: trial balance over the whole journal"):
            answer = await call(clients.ledger.GetTrialBalance, ledger.GetTrialBalanceRequest())
        self._stage.table(
            "trial balance",
            ("currency", ">debits", ">credits", ">difference", ">held", ">mismatches"),
            [
                (
                    line.currency_code,
                    shown(line.debit_minor, line.currency_code),
                    shown(line.credit_minor, line.currency_code),
                    shown(line.difference_minor, line.currency_code),
                    shown(line.held_minor, line.currency_code),
                    str(line.mismatched_accounts),
                )
                for line in answer.lines
            ],
        )
        if not answer.balanced:
            raise DemoFailed(self._failed("trial balance", "the books do not balance"))

    async def _position(self, clients: Clients, trade: order.Trade) -> Position:
        found = await call(clients.order.GetTrade, order.GetTradeRequest(trade_no=trade.trade_no))
        payer, payee = [
            await call(clients.ledger.GetAccount, ledger.GetAccountRequest(account_id=account))
            for account in (self._cast.payer, self._cast.shop)
        ]
        state = order.TradeState.Name(found.trade.state).removeprefix("TRADE_STATE_")
        return Position(state, payer.account, payee.account)

    def _confirmation(self, trade: order.Trade) -> wallet.ConfirmPaymentRequest:
        return wallet.ConfirmPaymentRequest(
            idempotency_key=f"pay-{trade.out_trade_no}",
            user_id=self._cast.user,
            trade_no=trade.trade_no,
            payment_password=self._cast.password,
        )

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        """A step of the stage whose failure becomes one line that names it and the logs."""
        try:
            with self._stage.step(title):
                yield
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name} {reason_of(error)} {error.details()}"
            raise DemoFailed(self._failed(title, why)) from error
        except DemoFailed as error:
            raise DemoFailed(self._failed(title, str(error))) from error

    def _failed(self, title: str, why: str) -> str:
        return f"the demo failed at {title!r}: {why}; logs are in {self._logs} (`make logs`)"


def _finish(stage: Stage, found: MeshStatus, settings: Settings, first_payment_s: float) -> None:
    for service in dict.fromkeys(process.service for process in found.processes):
        where = [p.address for p in found.processes if p.service == service]
        stage.tell(f"  {service:<12} {'  '.join(where)}")
    ledger_at = next(p.address for p in found.processes if p.service == "ledger")
    stage.tell(
        f"\nfirst payment after {first_payment_s:.1f} s, all done in {stage.elapsed_s:.1f} s"
    )
    stage.tell("the mesh stays up. Next:")
    stage.tell(f"  {inspect_command(settings, ledger_at)}")
    stage.tell("  make ps      make logs      make down")


def inspect_command(settings: Settings, address: str) -> str:
    """A command that lists what a server offers, with a program that is here if there is one."""
    if shutil.which("grpcurl") is None and (settings.repository / ".venv/bin/buf").exists():
        return (
            ".venv/bin/buf curl --http2-prior-knowledge --protocol grpc --list-methods"
            f" http://{address}"
        )
    return f"grpcurl -plaintext {address} list"
