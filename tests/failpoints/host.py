"""One process under test: the coordinator, the ledger's books or the order's, over fixed addresses.

    python -m tests.failpoints.host PLAN

All of it is shipped code, with intervals so short that a test need not wait for them. The
books come with accounts and trades, so that payments can begin at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from tallystick.ledger.v1.ledger_service_pb2 import TransferOperation
from tallystick.order.v1.order_service_pb2 import PayTradeOperation

from services.ledger.transfer import TransferResource
from services.order.payment import PayTradeResource
from services.store import own_schema
from tests.failpoints.points import HostPoints
from txn import (
    CoordinatorConfig,
    ForgetterConfig,
    InquiryConfig,
    LogKeeperConfig,
    epoch_keeper,
    log_keeper,
)
from txn.clock import Backoff, SystemClock
from txn.rpc import ServedBatchResource, serve_coordinator, serve_participant

COORDINATOR = "coordinator"
LOOK_S = 0.02
PARTICIPANTS = ("order", "ledger")
ROLES = (COORDINATOR, *PARTICIPANTS)

TRADES = 4_000
PRICE_MINOR = 350
PAYER, POOR, MERCHANT = "payer", "poor", "merchant"
_ACCOUNTS = f"""
INSERT INTO account (account_id, currency_code, limit_minor, created_at_us) VALUES
    ('{PAYER}', 'EUR', -1000000000, 0), ('{POOR}', 'EUR', 0, 0), ('{MERCHANT}', 'EUR', 0, 0);
"""
_TRADES = f"""
INSERT INTO trade (trade_no, merchant_id, out_trade_no, subject, currency_code, amount_minor,
    payee_account_id, state, valid_for_us, created_at_us, expires_at_us)
WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {TRADES})
SELECT 't' || n, '{MERCHANT}', n, 'coffee', 'EUR', {PRICE_MINOR}, '{MERCHANT}',
    'WAIT_BUYER_PAY', 1, 0, {2**62} FROM n;
"""
_NEVER_S = 3_600.0
_CHANNEL: list[tuple[str, int]] = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 50),
]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a scenario may want otherwise; the intervals are those of all hosts."""

    prepare_timeout_s: float = 4.0
    attempt_timeout_s: float = 1.0
    inquiry_s: float = 0.15
    # Of truncation and of forgetting by question; for ever unless asked for.
    housekeeping_s: float = _NEVER_S
    retention_s: float = _NEVER_S


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What to run, and where: ports on loopback by role."""

    role: str
    home: str
    ports: dict[str, int]
    settings: Settings


class _Transfers(TransferResource):
    operation = TransferOperation
    schema: Sequence[str] = [each.sql for each in own_schema("ledger")["ledger"]] + [_ACCOUNTS]


class _Trades(PayTradeResource):
    operation = PayTradeOperation
    schema: Sequence[str] = [each.sql for each in own_schema("order")["order"]] + [_TRADES]


def _resource(role: str) -> ServedBatchResource[Any]:
    return _Transfers(SystemClock()) if role == "ledger" else _Trades(SystemClock())


def channel_to(port: int) -> grpc.aio.Channel:
    """A channel that comes back soon after its server does."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_CHANNEL)


def run(plan: HostPlan) -> None:
    """Serves until the process is killed."""
    logging.basicConfig(level=logging.INFO)
    uvloop.run(_serve(plan))


async def _serve(plan: HostPlan) -> None:
    # A port that is taken is an error, and not shared.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_insecure_port(f"127.0.0.1:{plan.ports[plan.role]}")
    home = Path(plan.home)
    points = HostPoints(home, plan.role)
    settings = plan.settings
    # Nobody can wait for as long as a retention has to be.
    log_keeper.RETENTION_MIN_S = min(log_keeper.RETENTION_MIN_S, settings.retention_s)
    # What may be forgotten is known soon.
    epoch_keeper.LOOK_S = LOOK_S
    async with AsyncExitStack() as stack:
        if plan.role == COORDINATOR:
            await stack.enter_async_context(
                serve_coordinator(
                    server,
                    COORDINATOR,
                    home=home,
                    participants={name: channel_to(plan.ports[name]) for name in PARTICIPANTS},
                    config=_config(settings),
                    keeping=LogKeeperConfig(
                        idempotency_retention_s=settings.retention_s,
                        interval_s=settings.housekeeping_s,
                    ),
                    crash_point=points,
                )
            )
        else:
            await stack.enter_async_context(
                serve_participant(
                    server,
                    plan.role,
                    _resource(plan.role),
                    home=home,
                    coordinators={COORDINATOR: channel_to(plan.ports[COORDINATOR])},
                    inquiry=InquiryConfig(
                        interval_s=settings.inquiry_s, jitter_s=0.05, timeout_s=1.0
                    ),
                    forgetting=ForgetterConfig(
                        interval_s=settings.housekeeping_s, age_min_s=settings.housekeeping_s
                    ),
                    crash_point=points,
                )
            )
        await asyncio.get_running_loop().create_future()


def _config(settings: Settings) -> CoordinatorConfig:
    return CoordinatorConfig(
        name=COORDINATOR,
        participants=frozenset(PARTICIPANTS),
        prepare_timeout_s=settings.prepare_timeout_s,
        attempt_timeout_s=settings.attempt_timeout_s,
        retry=Backoff(initial_s=0.02, max_s=0.1),
    )


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    run(HostPlan(**{**told, "settings": Settings(**told["settings"])}))
