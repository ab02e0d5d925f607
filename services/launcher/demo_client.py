"""What the demo needs of the mesh, each a call over a balanced channel.

Every method is idempotent at its service, so a call that says nothing about its
outcome is simply sent again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.message import Message
from tallystick.ledger.v1.ledger_service_pb2_grpc import LedgerServiceStub
from tallystick.order.v1.order_service_pb2_grpc import OrderServiceStub
from tallystick.txn.v1.coordinator_service_pb2_grpc import CoordinatorServiceStub
from tallystick.wallet.v1.wallet_service_pb2_grpc import WalletServiceStub

import balancer
from discovery import EtcdClient, EtcdResolver, EtcdResolverConfig
from discovery.etcd_config import config_from
from services.connections import CHANNEL_CONFIG

if TYPE_CHECKING:  # the types of stubs on aio channels; at run time there is one class for both
    from tallystick.ledger.v1.ledger_service_pb2_grpc import LedgerServiceAsyncStub
    from tallystick.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from tallystick.txn.v1.coordinator_service_pb2_grpc import CoordinatorServiceAsyncStub
    from tallystick.wallet.v1.wallet_service_pb2_grpc import WalletServiceAsyncStub

RPC_TIMEOUT_S = 10.0
RPC_ATTEMPTS_MAX = 5
RETRY_DELAY_S = 0.2
OUTCOME_UNKNOWN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Clients:
    """One stub per service."""

    order: OrderServiceAsyncStub
    ledger: LedgerServiceAsyncStub
    wallet: WalletServiceAsyncStub
    coordinator: CoordinatorServiceAsyncStub


@asynccontextmanager
async def connect(etcd: Sequence[str]) -> AsyncIterator[Clients]:
    """Clients of the services registered at `etcd` (host:port each)."""
    async with AsyncExitStack() as stack:
        client = EtcdClient(list(etcd), config=config_from(os.environ))
        stack.push_async_callback(client.close)
        resolver = EtcdResolver(client, config=EtcdResolverConfig(accept_loopback=True))
        stack.push_async_callback(resolver.close)

        async def channel(service: str) -> grpc.aio.Channel:
            opened = balancer.channel(service, resolver=resolver, config=CHANNEL_CONFIG)
            stack.push_async_callback(opened.close)
            return opened

        yield Clients(
            OrderServiceStub(await channel("order")),
            LedgerServiceStub(await channel("ledger")),
            WalletServiceStub(await channel("wallet")),
            CoordinatorServiceStub(await channel("coordinator")),
        )


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request
) -> Response:
    """The answer to `request`; raises AioRpcError when it is refused or nobody answers."""
    for attempt in range(1, RPC_ATTEMPTS_MAX + 1):
        try:
            return await method(request, timeout=RPC_TIMEOUT_S, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() not in OUTCOME_UNKNOWN or attempt == RPC_ATTEMPTS_MAX:
                raise
            await asyncio.sleep(RETRY_DELAY_S * attempt)
    raise AssertionError("the last attempt returns or raises")
