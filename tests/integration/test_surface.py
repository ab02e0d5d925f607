"""What tools see of a running service: reflection, health, channelz, through buf and grpcurl."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.order.v1 import order_service_pb2
from tallystick.txn.v1 import coordinator_service_pb2
from tallystick.wallet.v1 import wallet_service_pb2

import balancer
from balancer import ChannelConfig
from tests.support.children import ROOT
from tests.support.mesh import CALL_TIMEOUT_S, PASSWORD, Mesh
from tests.support.require import require

T = TypeVar("T", bound=Message)

SHOWN = {
    "order": {"tallystick.order.v1.OrderService", "tallystick.txn.v1.ParticipantService"},
    "ledger": {"tallystick.ledger.v1.LedgerService", "tallystick.txn.v1.ParticipantService"},
    "wallet": {"tallystick.wallet.v1.WalletService"},
    "coordinator": {"tallystick.txn.v1.CoordinatorService"},
}
ALWAYS = {
    "grpc.health.v1.Health",
    "grpc.channelz.v1.Channelz",
    "grpc.reflection.v1alpha.ServerReflection",
}

# gRPC Core sends no more than one a second.
PING_S = 1.0
SEVEN_PINGS_S = 7.0


async def _run(program: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        str(program),
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err.decode()
    return out.decode()


def _buf() -> Path:
    return Path(sys.executable).with_name("buf")


async def _buf_curl(url: str, body: str = "{}") -> dict[str, object]:
    reply: dict[str, object] = json.loads(
        await _run(
            _buf(), "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--data", body, url
        )
    )
    return reply


@pytest.mark.parametrize("service", SHOWN)
async def test_buf_curl_lists_the_services(shared_mesh: Mesh, service: str) -> None:
    """Reflection names each service, health, channelz and reflection itself."""
    address = shared_mesh.processes[f"{service}-0"].address
    listed = await _run(
        _buf(), "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--list-services",
        f"http://{address}",
    )  # fmt: skip
    assert SHOWN[service] | ALWAYS == set(listed.split())


async def test_buf_curl_reads_the_trial_balance(shared_mesh: Mesh) -> None:
    """A method can be called with nothing but reflection."""
    address = shared_mesh.processes["ledger-0"].address
    reply = await _buf_curl(f"http://{address}/tallystick.ledger.v1.LedgerService/GetTrialBalance")
    assert reply["balanced"] is True


@pytest.mark.parametrize("name", ["", "tallystick.ledger.v1.LedgerService"])
async def test_health_answers_for_the_server_and_for_each_service(
    shared_mesh: Mesh, name: str
) -> None:
    """The health service says SERVING for "" and for full service names."""
    address = shared_mesh.processes["ledger-0"].address
    reply = await _buf_curl(
        f"http://{address}/grpc.health.v1.Health/Check", json.dumps({"service": name})
    )
    assert reply == {"status": "SERVING"}


async def test_grpcurl_lists_and_describes(shared_mesh: Mesh) -> None:
    """The real grpcurl lists the services and describes one of them."""
    grpcurl = require("grpcurl")
    address = shared_mesh.processes["ledger-0"].address
    listed = await _run(grpcurl, "-plaintext", address, "list")
    described = await _run(
        grpcurl, "-plaintext", address, "describe", "tallystick.ledger.v1.LedgerService"
    )
    assert SHOWN["ledger"] | ALWAYS == set(listed.split())
    assert "rpc GetTrialBalance" in described


async def _grpcurl(url: str, body: str) -> dict[str, object]:
    address, _, method = url.removeprefix("http://").partition("/")
    reply: dict[str, object] = json.loads(
        await _run(require("grpcurl"), "-plaintext", "-d", body, address, method)
    )
    return reply


@pytest.mark.parametrize("tool", [_buf_curl, _grpcurl], ids=["buf-curl", "grpcurl"])
async def test_whole_payment_from_the_command_line(
    shared_mesh: Mesh, tool: Callable[[str, str], Awaitable[dict[str, Any]]]
) -> None:
    """With reflection alone a user is created, funded, and pays a trade."""
    name = uuid.uuid4().hex[:12]

    async def call(service: str, method: str, reply: T, **body: object) -> T:
        address = shared_mesh.processes[f"{service}-0"].address
        # grpcurl prints the names of the proto, buf those of JSON: both are proto3 JSON.
        return json_format.ParseDict(
            await tool(f"http://{address}/tallystick.{method}", json.dumps(body)), reply
        )

    user = await call(
        "wallet", "wallet.v1.WalletService/CreateUser", wallet_service_pb2.CreateUserResponse(),
        userId=name, paymentPassword=PASSWORD, currencyCode="EUR", idempotencyKey="k",
    )  # fmt: skip
    for account_id, limit in ((f"shop-{name}", 0), (f"bank-{name}", -1000)):
        await call(
            "ledger", "ledger.v1.LedgerService/CreateAccount",
            ledger_service_pb2.CreateAccountResponse(),
            accountId=account_id, currencyCode="EUR", limitMinor=limit,
        )  # fmt: skip
    operation = {
        "@type": "type.googleapis.com/tallystick.ledger.v1.TransferOperation",
        "debitAccountId": f"bank-{name}",
        "creditAccountId": user.user.account_id,
        "amount": {"currencyCode": "EUR", "amountMinor": 1000},
    }
    funded = await call(
        "coordinator", "txn.v1.CoordinatorService/Execute",
        coordinator_service_pb2.ExecuteResponse(),
        idempotencyKey=f"fund-{name}",
        branches=[{"branchId": "ledger", "participant": "ledger", "operation": operation}],
    )  # fmt: skip
    assert coordinator_service_pb2.OUTCOME_COMMITTED == funded.outcome
    created = await call(
        "order", "order.v1.OrderService/CreateTrade", order_service_pb2.CreateTradeResponse(),
        merchantId=name, outTradeNo="1", subject="tea", payeeAccountId=f"shop-{name}",
        amount={"currencyCode": "EUR", "amountMinor": 990},
    )  # fmt: skip
    paid = await call(
        "wallet", "wallet.v1.WalletService/ConfirmPayment",
        wallet_service_pb2.ConfirmPaymentResponse(),
        idempotencyKey="pay", userId=name, paymentPassword=PASSWORD,
        tradeNo=created.trade.trade_no,
    )  # fmt: skip
    assert wallet_service_pb2.PAYMENT_STATE_SUCCEEDED == paid.state
    shop = await call(
        "ledger", "ledger.v1.LedgerService/GetAccount", ledger_service_pb2.GetAccountResponse(),
        accountId=f"shop-{name}",
    )  # fmt: skip
    assert shop.account.available_minor == 990


async def test_a_client_may_ping_as_often_as_it_can(shared_mesh: Mesh) -> None:
    """A call on which nothing is said stays, while a stock server closes the connection in 5 s."""
    config = ChannelConfig(keepalive_time_s=PING_S, keepalive_timeout_s=CALL_TIMEOUT_S)
    address = shared_mesh.processes["coordinator-0"].address
    async with balancer.channel(f"static:///{address}", config=config) as channel:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            "/grpc.health.v1.Health/Watch"
        )
        watch = method(b"")
        assert grpc.aio.EOF is not await watch.read()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SEVEN_PINGS_S):
                await watch.read()
