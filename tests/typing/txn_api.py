"""The types of what a participant, and who calls a coordinator, use. mypy checks this file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import assert_type

import grpc.aio
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from txn import BranchKey, Busy, Item, Refused, Vote
from txn.rpc import Committed, TransactionClient, WaitFor, serve_coordinator, serve_participant
from txn.store.opening import SqliteStore
from txn.testing import check_participant


class Alone:
    """A Resource."""

    operation = StringValue
    schema = ("CREATE TABLE seat (name TEXT)",)

    def prepare(self, tx: sqlite3.Connection, key: BranchKey, seat: StringValue) -> Vote:
        """Reserves."""
        return Vote.COMMIT

    def commit(self, tx: sqlite3.Connection, key: BranchKey, seat: StringValue) -> None:
        """Makes it final."""

    def abort(self, tx: sqlite3.Connection, key: BranchKey, seat: StringValue) -> None:
        """Gives it back."""


class Together:
    """A BatchResource."""

    operation = StringValue
    schema = ("CREATE TABLE seat (name TEXT)",)

    def prepare_all(
        self, tx: sqlite3.Connection, items: Sequence[Item[StringValue]]
    ) -> Sequence[Vote | Refused | Busy]:
        """Reserves."""
        return [Vote.COMMIT for _ in items]

    def commit_all(self, tx: sqlite3.Connection, items: Sequence[Item[StringValue]]) -> None:
        """Makes them final."""

    def abort_all(self, tx: sqlite3.Connection, items: Sequence[Item[StringValue]]) -> None:
        """Gives them back."""


class OfAnotherType(Alone):
    """Says that its operations are of a type which its methods do not take."""

    operation = Int64Value  # type: ignore[assignment]


async def serve(server: grpc.aio.Server, channel: grpc.aio.Channel) -> None:
    """Either kind is served, and checked."""
    to = {"booking": channel}
    async with (
        serve_participant(server, "seats", Alone(), home=".", coordinators=to) as store,
        serve_participant(server, "more", Together(), home=".", coordinators=to),
        serve_coordinator(server, "booking", home=".", participants=to),
    ):
        assert_type(store, SqliteStore)
    seat = StringValue(value="7C")
    await check_participant(Alone, accepted=[seat], refused=[seat], rivals=[(seat, seat)])
    await check_participant(Together, accepted=[seat], refused=[seat], rivals=())
    await check_participant(Alone, accepted=["7C"], refused=[seat], rivals=())  # type: ignore[arg-type]


async def call(channel: grpc.aio.Channel) -> None:
    """One call, with its outcome."""
    async with TransactionClient(channel) as client:
        done = await client.execute(
            {"seats": StringValue(value="7C")}, idempotency_key="ann", wait_for=WaitFor.DECIDED
        )
        assert_type(done, Committed)
        await client.execute({"seats": StringValue()})  # type: ignore[call-arg] # no key
