"""A participant and a coordinator on servers of one's own, over real files and connections."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.support.waiting import eventually
from txn import (
    BranchKey,
    CoordinatorConfig,
    ForgetterConfig,
    InquiryConfig,
    LogKeeperConfig,
    Refused,
    TransactionAborted,
    Vote,
    forgetter,
    lane,
    log_keeper,
)
from txn.errors import AlreadyOwned
from txn.model import Batch, BranchId, Prepare, TxnId, VoteReply
from txn.rpc import TransactionClient, operation_of, serve_coordinator, serve_participant
from txn.rpc.participant_transport import GrpcParticipantTransport
from txn.store.opening import SqliteStore

LONG_S = 20.0
SEAT = StringValue(value="7C")


class Seats:
    """One class, one type of operation."""

    operation = StringValue
    schema = (
        "CREATE TABLE seat (name TEXT PRIMARY KEY)",
        "ALTER TABLE seat ADD COLUMN sold INTEGER DEFAULT 0",
    )

    def prepare(self, tx: sqlite3.Connection, key: BranchKey, seat: StringValue) -> Vote:
        """Takes the seat."""
        insert = "INSERT OR IGNORE INTO seat (name) VALUES (?)"
        if not tx.execute(insert, (seat.value,)).rowcount:
            raise Refused("SEAT_TAKEN")
        return Vote.COMMIT

    def commit(self, tx: sqlite3.Connection, key: BranchKey, seat: StringValue) -> None:
        """Sells it."""
        tx.execute("UPDATE seat SET sold = 1 WHERE name = ?", (seat.value,))

    def abort(self, tx: sqlite3.Connection, key: BranchKey, seat: StringValue) -> None:
        """Gives it back."""
        tx.execute("DELETE FROM seat WHERE name = ?", (seat.value,))


def seats(tx: sqlite3.Connection) -> list[tuple[str, int]]:
    """Which are taken, and whether they are sold."""
    return tx.execute("SELECT name, sold FROM seat").fetchall()


class Servers:
    """Two that can be stopped, and started again at the same address, one by one."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._servers = {name: grpc.aio.server() for name in ("seats", "booking")}
        ports = {
            name: server.add_insecure_port("127.0.0.1:0") for name, server in self._servers.items()
        }
        self.to = {
            name: grpc.aio.insecure_channel(f"127.0.0.1:{port}") for name, port in ports.items()
        }

    @asynccontextmanager
    async def seats(self) -> AsyncIterator[SqliteStore]:
        """The participant."""
        async with serve_participant(
            self._servers["seats"],
            "seats",
            Seats(),
            home=self._home,
            coordinators={"booking": self.to["booking"]},
            inquiry=InquiryConfig(interval_s=0.1, jitter_s=0.0),
        ) as store:
            yield store

    @asynccontextmanager
    async def booking(
        self, config: CoordinatorConfig | None = None
    ) -> AsyncIterator[TransactionClient]:
        """The coordinator, and a client of it."""
        participants = {"seats": self.to["seats"]}
        async with (
            serve_coordinator(
                self._servers["booking"],
                "booking",
                home=self._home,
                participants=participants,
                config=config,
            ),
            TransactionClient(self.to["booking"]) as client,
        ):
            yield client

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self.to.values():
            await channel.close()


@asynccontextmanager
async def servers(home: Path) -> AsyncIterator[Servers]:
    """Neither of them is started."""
    both = Servers(home)
    try:
        yield both
    finally:
        await both.close()


async def test_a_transaction_runs_over_both(tmp_path: Path) -> None:
    """And who wants the same seat gets nothing."""
    async with servers(tmp_path) as it, it.seats() as store, it.booking() as client:
        await client.execute({"seats": SEAT}, idempotency_key="ann")
        with pytest.raises(TransactionAborted, match="SEAT_TAKEN"):
            await client.execute({"seats": SEAT}, idempotency_key="bob")
        assert [("7C", 1)] == await store.read(seats)


async def test_what_was_done_is_found_by_the_next_start(tmp_path: Path) -> None:
    """The same files: the key has its outcome, the seat is sold, and the schema is there once."""
    for _ in range(2):
        async with servers(tmp_path) as it, it.seats() as store, it.booking() as client:
            await client.execute({"seats": SEAT}, idempotency_key="ann")
            assert [("7C", 1)] == await store.read(seats)


async def test_a_branch_that_was_left_in_doubt_is_asked_about(tmp_path: Path) -> None:
    """The coordinator knows nothing of it, so it is aborted and the seat is free again."""
    async with servers(tmp_path) as it, it.seats() as store, it.booking() as client:
        await client.execute({"seats": StringValue(value="1A")}, idempotency_key="ann")
        # Another's prepare, in the name of this coordinator's log.
        (txn_id,) = await store.read(lambda tx: tx.execute("SELECT txn_id FROM branch").fetchone())
        key = BranchKey(TxnId("0" + txn_id[1:]), BranchId("seats"))
        transport = GrpcParticipantTransport(it.to.__getitem__, "booking")
        batch = Batch([Prepare(key, "booking", operation_of(SEAT))])
        assert [VoteReply(Vote.COMMIT)] == await transport.exchange("seats", batch, LONG_S)
        await transport.close()

        async def free() -> bool:
            return [("1A", 1)] == await store.read(seats)

        await eventually(free)


async def test_what_is_over_is_forgotten_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to see to it; here all is old at once, and no word of it rides with a batch."""
    monkeypatch.setattr(lane, "FORGETTABLE_MAX", 0)
    monkeypatch.setattr(log_keeper, "RETENTION_MIN_S", 0.0)
    old = partial(LogKeeperConfig, idempotency_retention_s=1e-6, interval_s=0.02)
    monkeypatch.setattr(log_keeper, "LogKeeperConfig", old)
    often = partial(ForgetterConfig, age_min_s=0.0, interval_s=0.02)
    monkeypatch.setattr(forgetter, "ForgetterConfig", often)
    async with servers(tmp_path) as it, it.seats() as store, it.booking() as client:
        for number in range(3):
            seat = StringValue(value=f"{number}A")
            last = await client.execute({"seats": seat}, idempotency_key=f"ann-{number}")

        async def forgotten() -> bool:
            (kept,) = await store.read(
                lambda tx: tx.execute("SELECT COUNT(*) FROM branch").fetchone()
            )
            with closing(sqlite3.connect(tmp_path / "booking.db")) as log:
                rows = {txn_id for (txn_id,) in log.execute("SELECT txn_id FROM decision")}
            # The newest is the horizon itself: branches below it may be forgotten. And its end
            # rides with the next force, which nobody needs any more.
            return bool(kept <= 1 and rows <= {last.txn_id})

        await eventually(forgotten)
        assert [("0A", 1), ("1A", 1), ("2A", 1)] == await store.read(seats)


async def test_a_log_has_one_coordinator(tmp_path: Path) -> None:
    """A second one is refused, and has let go of everything: it can come when the first ends."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(servers(tmp_path))
        second = await stack.enter_async_context(servers(tmp_path))
        async with first.booking():
            with pytest.raises(AlreadyOwned):
                await stack.enter_async_context(second.booking())
        await stack.enter_async_context(second.booking())


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (CoordinatorConfig(name="other", participants=frozenset({"seats"})), "config.name"),
        (CoordinatorConfig(name="booking", participants=frozenset({"x"})), "config.participants"),
    ],
    ids=["name", "participants"],
)
async def test_a_config_that_contradicts_is_refused(
    tmp_path: Path, config: CoordinatorConfig, field: str
) -> None:
    """Before a file is made: participants would ask back where nobody is, or never be reached."""
    async with servers(tmp_path) as it:
        with pytest.raises(ValueError, match=f"{field} must"):
            async with it.booking(config):
                raise AssertionError("it is served")
    assert [] == await asyncio.to_thread(os.listdir, tmp_path)


async def test_nothing_is_left_running(tmp_path: Path) -> None:
    """Tasks, that is; the files can be opened by anybody else."""
    before = asyncio.all_tasks()
    async with servers(tmp_path) as it, it.seats(), it.booking() as client:
        await client.execute({"seats": SEAT}, idempotency_key="ann")

    async def gone() -> bool:
        return not {task for task in asyncio.all_tasks() - before if "txn" in repr(task.get_coro())}

    await eventually(gone)
