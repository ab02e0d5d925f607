"""A real mesh for tests: every service a process of its own, over a real etcd and real stores.

Ports are ephemeral, the books stand in a directory or a database of the test, and any
process can be killed, armed with a failpoint and started again. Clients use the shipped
resolver and balancer.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import psycopg
from google.protobuf import any_pb2
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from tallystick.ledger.v1 import ledger_service_pb2, ledger_service_pb2_grpc
from tallystick.order.v1 import order_service_pb2, order_service_pb2_grpc
from tallystick.txn.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc
from tallystick.type.v1 import money_pb2
from tallystick.wallet.v1 import wallet_service_pb2, wallet_service_pb2_grpc

import balancer
from discovery import EtcdClient, EtcdResolver
from services.connections import CHANNEL_CONFIG
from services.failpoints import VARIABLE
from services.runtime import POSTGRES
from tests.support.books import rows_of
from tests.support.children import ROOT, Child, Nursery
from tests.support.etcd import EtcdProcess
from tests.support.passwords import CHEAP_PASSWORDS
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually

SERVICES = ("order", "ledger", "wallet", "coordinator")
START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 15.0
CALL_TIMEOUT_S = 20.0
PASSWORD = "correct horse"


@functools.cache
def _nursery() -> Nursery:
    """Where all processes of services come from; it ends with those who test."""
    nursery = Nursery(*(f"services.{service}.__main__" for service in SERVICES))
    atexit.register(nursery.close)
    return nursery


def _is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


class ServiceProcess:
    """One replica. It keeps its port from start to start."""

    def __init__(
        self, service: str, replica: int, etcd: str, home: Path, postgres: str = ""
    ) -> None:
        """Keeps its books in the database `postgres`, if that is named, else in `home`."""
        self.service = service
        self.address = f"127.0.0.1:{free_port()}"
        self.metrics_port = free_port()
        # Whose code it runs: that of another release may be somewhere else.
        self.tree = ROOT
        # By one that has imported everything; what is measured starts as users start it.
        self.forked = True
        # Of its environment, beside ours. To check a password should not be all that is done.
        self.variables = dict(CHEAP_PASSWORDS)
        # Of its command line, after ours: of two that say the same the later one counts.
        self.arguments: tuple[str, ...] = ()
        self._replica = replica
        self._etcd = etcd
        self._home = home
        self._postgres = postgres
        self._process: subprocess.Popen[bytes] | Child | None = None
        self._log = home / f"{service}-{replica}.log"
        self._armed = False

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """It was launched, and does not run any more."""
        return self._process is not None and self._process.poll() is not None

    def launch(self, failpoint: str = "") -> None:
        """Starts it; does not wait."""
        self._armed = failpoint != ""
        arguments = [
            "--replica", str(self._replica), "--address", self.address,
            "--etcd", self._etcd, "--home", str(self._home),
            "--metrics", f"127.0.0.1:{self.metrics_port}",
            *self.arguments,
        ]  # fmt: skip
        environment = {
            **os.environ, **self.variables, VARIABLE: failpoint, POSTGRES: self._postgres,
        }  # fmt: skip
        module = f"services.{self.service}"
        with self._log.open("ab") as log:
            if self.forked and self.tree == ROOT:
                self._process = _nursery().bear(module, arguments, log.fileno(), environment)
                return
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self.tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def heal(self) -> None:
        """Whatever was done to it, it runs again and harms nobody."""
        assert self._process is not None
        if self._process.poll() is None and not self._armed:
            self.send(signal.SIGCONT)
            return
        self.kill9()
        self.launch()
        await self.serving()

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def serving(self) -> None:
        """Waits until its health says SERVING."""

        async def healthy() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.service} ended:\n{self.log[-3000:]}")
            # Much cheaper than a channel, of which it would take dozens.
            if not _is_listening(self.address):
                return False
            async with grpc.aio.insecure_channel(self.address) as channel:
                check = channel.unary_unary(
                    "/grpc.health.v1.Health/Check",
                    request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                    response_deserializer=health_pb2.HealthCheckResponse.FromString,
                )
                reply: health_pb2.HealthCheckResponse = await check(
                    health_pb2.HealthCheckRequest(), timeout=2
                )
                return reply.status == health_pb2.HealthCheckResponse.SERVING

        await eventually(healthy, timeout_s=START_TIMEOUT_S, what=f"{self.service} serving")

    async def ended(self) -> int:
        """Waits until it has ended by itself; its exit code."""
        assert self._process is not None
        code: int = await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)
        return code

    def kill9(self) -> None:
        """Kills it without warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def terminate(self) -> int:
        """Asks it to stop; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return await self.ended()


class Clients:
    """Stubs to every service of one registry, over the shipped resolver and balancer."""

    def __init__(self, home: Path, postgres: str = "") -> None:
        """Services keep their books in the database `postgres`, or in `home` without one."""
        self._home = home
        self._postgres = postgres

    def book(self, service: str) -> Path:
        """The SQLite file of a service."""
        return self._home / "data" / f"{service}.db"

    def rows(self, service: str, query: str) -> list[tuple[Any, ...]]:
        """What a service's books say, behind its back."""
        if self._postgres:
            with psycopg.connect(self._postgres, options=f"-c search_path={service}") as connection:
                return connection.execute(query.encode()).fetchall()
        return rows_of(self.book(service), query)

    def tables(self, service: str) -> list[str]:
        """The names of all tables of a service."""
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        if self._postgres:
            query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        return [name for (name,) in self.rows(service, query)]

    def connect(self, etcd: str) -> None:
        """Makes the stubs; call it on the loop that uses them."""
        self._client = EtcdClient([etcd])
        self._resolver = EtcdResolver(self._client)
        self._channels = {
            service: balancer.channel(service, resolver=self._resolver, config=CHANNEL_CONFIG)
            for service in SERVICES
        }
        channels = self._channels
        self.order = order_service_pb2_grpc.OrderServiceStub(channels["order"])
        self.ledger = ledger_service_pb2_grpc.LedgerServiceStub(channels["ledger"])
        self.wallet = wallet_service_pb2_grpc.WalletServiceStub(channels["wallet"])
        self.coordinator = coordinator_service_pb2_grpc.CoordinatorServiceStub(
            channels["coordinator"]
        )

    def channel(self, service: str) -> balancer.BalancedChannel:
        """The channel to a service, for more than its stub."""
        return self._channels[service]

    async def disconnect(self) -> None:
        """Closes what connect opened."""
        for channel in self._channels.values():
            await channel.close()
        await self._resolver.close()
        await self._client.close()


class Mesh(Clients):
    """An etcd, one process of each service, and stubs to all of them."""

    def __init__(self, home: Path, postgres: str = "") -> None:
        super().__init__(home, postgres)
        self.etcd = EtcdProcess()
        self.processes: dict[str, ServiceProcess] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            # Nobody leaves what was not entered.
            self._kill()
            raise
        self.connect(self.etcd.endpoint)
        return self

    async def _start(self) -> None:
        self.etcd.start()
        for service in SERVICES:
            process = self.replica(service, 0)
            self.processes[f"{service}-0"] = process
            process.launch()
        await asyncio.gather(*(process.serving() for process in self.processes.values()))

    def _kill(self) -> None:
        for process in self.processes.values():
            process.kill9()
        self.etcd.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.disconnect()
        self._kill()

    def replica(self, service: str, number: int) -> ServiceProcess:
        """One more process of a service, over the same books; whoever launches it ends it."""
        return ServiceProcess(service, number, self.etcd.endpoint, self._home, self._postgres)

    async def restart(self, name: str, *, failpoint: str = "") -> None:
        """Ends a process in order and starts it again, armed if asked."""
        await self.processes[name].terminate()
        self.processes[name].launch(failpoint)
        await self.processes[name].serving()


def new_mesh(home: Path, postgres: PostgresServer | None) -> Mesh:
    """One whose books are in `home`, or in a new database of a server."""
    return Mesh(home, postgres.database() if postgres else "")


def packed(operation: Message) -> any_pb2.Any:
    """An operation for a branch."""
    wrapped = any_pb2.Any()
    wrapped.Pack(operation)
    return wrapped


def euros(amount_minor: int) -> money_pb2.Money:
    """An amount in euro cents."""
    return money_pb2.Money(currency_code="EUR", amount_minor=amount_minor)


def transfer(debit: str, credit: str, amount_minor: int) -> coordinator_service_pb2.Branch:
    """A branch at the ledger."""
    operation = ledger_service_pb2.TransferOperation(
        debit_account_id=debit, credit_account_id=credit, amount=euros(amount_minor)
    )
    return coordinator_service_pb2.Branch(
        branch_id="ledger", participant="ledger", operation=packed(operation)
    )


class Shop:
    """A merchant, a funded payer, and payments between them. Names are fresh in each shop.

    All but `pay` waits for a service that is being restarted.
    """

    def __init__(self, mesh: Clients) -> None:
        self.mesh = mesh
        suffix = uuid.uuid4().hex[:12]
        self.user_id = f"alice-{suffix}"
        self.payer = f"user:{self.user_id}"
        self.merchant = f"merchant-{suffix}"
        self.bank = f"bank-{suffix}"
        self._trades = 0

    async def open(self, funds_minor: int = 100_000) -> Self:
        """Creates the user and the accounts, and funds the payer."""
        mesh = self.mesh
        # The wallet does not wait for a ledger that is being restarted.
        await eventually(self._create_user, CALL_TIMEOUT_S, what="a user with an account")
        for account_id, limit_minor in ((self.merchant, 0), (self.bank, -(10**15))):
            await mesh.ledger.CreateAccount(
                ledger_service_pb2.CreateAccountRequest(
                    account_id=account_id, currency_code="EUR", limit_minor=limit_minor
                ),
                timeout=CALL_TIMEOUT_S,
                wait_for_ready=True,
            )
        reply = await mesh.coordinator.Execute(
            coordinator_service_pb2.ExecuteRequest(
                idempotency_key=f"fund:{self.user_id}",
                branches=[transfer(self.bank, self.payer, funds_minor)],
            ),
            timeout=CALL_TIMEOUT_S,
            wait_for_ready=True,
        )
        assert reply.outcome == coordinator_service_pb2.OUTCOME_COMMITTED
        return self

    async def _create_user(self) -> wallet_service_pb2.CreateUserResponse:
        return await self.mesh.wallet.CreateUser(
            wallet_service_pb2.CreateUserRequest(
                user_id=self.user_id,
                payment_password=PASSWORD,
                currency_code="EUR",
                idempotency_key="create",
            ),
            timeout=CALL_TIMEOUT_S,
            wait_for_ready=True,
        )

    async def trade(self, amount_minor: int = 350) -> order_service_pb2.Trade:
        """A new trade that waits for its payer."""
        self._trades += 1
        reply = await self.mesh.order.CreateTrade(
            order_service_pb2.CreateTradeRequest(
                merchant_id=self.merchant,
                out_trade_no=str(self._trades),
                subject="two coffees",
                amount=euros(amount_minor),
                payee_account_id=self.merchant,
            ),
            timeout=CALL_TIMEOUT_S,
            wait_for_ready=True,
        )
        return reply.trade

    async def pay(
        self,
        trade: order_service_pb2.Trade,
        *,
        key: str = "first",
        password: str = PASSWORD,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> wallet_service_pb2.ConfirmPaymentResponse:
        """Confirms the payment of a trade."""
        return await self.mesh.wallet.ConfirmPayment(
            wallet_service_pb2.ConfirmPaymentRequest(
                idempotency_key=f"{key}-{trade.trade_no}",
                user_id=self.user_id,
                trade_no=trade.trade_no,
                payment_password=password,
            ),
            timeout=timeout_s,
        )

    async def execute(
        self, trade: order_service_pb2.Trade, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> coordinator_service_pb2.ExecuteResponse:
        """The same transaction, asked of the coordinator itself: reads nothing in between."""
        request = self.payment(trade)
        return await self.mesh.coordinator.Execute(request, timeout=timeout_s, wait_for_ready=True)

    def payment(self, trade: order_service_pb2.Trade) -> coordinator_service_pb2.ExecuteRequest:
        """The transaction that pays a trade; the same request each time."""
        order = order_service_pb2.PayTradeOperation(
            trade_no=trade.trade_no,
            amount=trade.amount,
            payee_account_id=trade.payee_account_id,
            payer_account_id=self.payer,
        )
        ledger = ledger_service_pb2.TransferOperation(
            debit_account_id=self.payer,
            credit_account_id=trade.payee_account_id,
            amount=trade.amount,
            reference=trade.trade_no,
        )
        return coordinator_service_pb2.ExecuteRequest(
            idempotency_key=f"direct:{trade.trade_no}",
            branches=[
                coordinator_service_pb2.Branch(
                    branch_id=name, participant=name, operation=packed(operation)
                )
                for name, operation in (("order", order), ("ledger", ledger))
            ],
        )

    async def execute_until_final(
        self, trade: order_service_pb2.Trade, *, within_s: float
    ) -> coordinator_service_pb2.ExecuteResponse:
        """Asks again, for the same transaction, until the answer is final."""
        answer = coordinator_service_pb2.ExecuteResponse()

        async def final() -> bool:
            answer.CopyFrom(await self.execute(trade))
            return answer.outcome != coordinator_service_pb2.OUTCOME_PENDING

        await eventually(final, timeout_s=within_s, what="a final outcome")
        return answer

    async def pay_until_final(self, trade: order_service_pb2.Trade, *, within_s: float) -> str:
        """Sends the same payment again until its outcome is known; the txn_id."""
        txn_id = ""

        async def final() -> bool:
            nonlocal txn_id
            reply = await self.pay(trade)
            txn_id = reply.txn_id
            return reply.state == wallet_service_pb2.PAYMENT_STATE_SUCCEEDED

        await eventually(final, timeout_s=within_s, what="a final outcome")
        return txn_id

    async def balance(self, account_id: str) -> ledger_service_pb2.Account:
        """An account as the ledger shows it."""
        reply = await self.mesh.ledger.GetAccount(
            ledger_service_pb2.GetAccountRequest(account_id=account_id),
            timeout=CALL_TIMEOUT_S,
            wait_for_ready=True,
        )
        return reply.account

    async def state_of(self, trade: order_service_pb2.Trade) -> str:
        """The bare name of a trade's state."""
        reply = await self.mesh.order.GetTrade(
            order_service_pb2.GetTradeRequest(trade_no=trade.trade_no),
            timeout=CALL_TIMEOUT_S,
            wait_for_ready=True,
        )
        name = order_service_pb2.TradeState.Name(reply.trade.state)
        return name.removeprefix("TRADE_STATE_")
