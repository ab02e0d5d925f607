"""Records what a release's stores hold: `python -m tests.stores.record NAME`, on its commit.

A mesh runs a short story and is killed in the midst of a payment; each store is written
down as SQL in `recorded/NAME`, with what later releases have to find in it. It needs etcd.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from tallystick.txn.v1 import coordinator_service_pb2

from tests.support.mesh import CALL_TIMEOUT_S, SERVICES, Mesh, Shop, transfer
from txn.crash_point import AFTER_DECISION

RECORDED = Path(__file__).parent / "recorded"
STORY = "story.json"
FUNDS_MINOR = 100_000
TOO_MUCH_MINOR = 10**9
TRADE_MINOR = 350


@dataclass(frozen=True, slots=True)
class Story:
    """What had happened when the stores were written down.

    `paying` was decided and nobody had heard of it; `waiting` nobody had paid.
    """

    user_id: str
    merchant: str
    bank: str
    paid: str
    paying: str
    waiting: str
    funding_txn_id: str
    refused_txn_id: str


def funding(user_id: str, bank: str) -> coordinator_service_pb2.ExecuteRequest:
    """What `Shop.open` has asked for."""
    return coordinator_service_pb2.ExecuteRequest(
        idempotency_key=f"fund:{user_id}",
        branches=[transfer(bank, f"user:{user_id}", FUNDS_MINOR)],
    )


def too_much(user_id: str, merchant: str) -> coordinator_service_pb2.ExecuteRequest:
    """A request that was refused."""
    return coordinator_service_pb2.ExecuteRequest(
        idempotency_key=f"too-much:{user_id}",
        branches=[transfer(f"user:{user_id}", merchant, TOO_MUCH_MINOR)],
    )


async def tell(mesh: Mesh) -> Story:
    """The story. Afterwards the mesh is dead."""
    shop = await Shop(mesh).open(FUNDS_MINOR)
    funded = await mesh.coordinator.Execute(
        funding(shop.user_id, shop.bank), timeout=CALL_TIMEOUT_S
    )
    refused = await mesh.coordinator.Execute(
        too_much(shop.user_id, shop.merchant), timeout=CALL_TIMEOUT_S
    )
    assert refused.reason == "INSUFFICIENT_FUNDS", refused
    paid, paying, waiting = [(await shop.trade(TRADE_MINOR)) for _ in range(3)]
    await shop.pay_until_final(paid, within_s=CALL_TIMEOUT_S)
    await mesh.restart("coordinator-0", failpoint=AFTER_DECISION)
    payment = asyncio.ensure_future(shop.pay(paying))
    assert await mesh.processes["coordinator-0"].ended() == -9
    for process in mesh.processes.values():
        process.kill9()
    await asyncio.gather(payment, return_exceptions=True)
    return Story(
        shop.user_id,
        shop.merchant,
        shop.bank,
        paid.trade_no,
        paying.trade_no,
        waiting.trade_no,
        funded.txn_id,
        refused.txn_id,
    )


def dump(book: Path) -> str:
    """A store as SQL."""
    with closing(sqlite3.connect(book)) as connection:
        return "\n".join(connection.iterdump()) + "\n"


async def main(name: str) -> None:
    """Writes everything down."""
    into = RECORDED / name
    into.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as home:
        async with Mesh(Path(home)) as mesh:
            story = await tell(mesh)
        for service in SERVICES:
            (into / f"{service}.sql").write_text(dump(mesh.book(service)), encoding="utf-8")
    (into / STORY).write_text(json.dumps(asdict(story), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
