"""A participant that prepares transactions on a real PostgreSQL; its operations say what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg

from tests.support.postgres import PostgresServer
from tests.txn.helpers import COORDINATORS
from txn.clock import SystemClock
from txn.crash_point import CrashPoint, no_crash
from txn.errors import FieldViolation, InvalidOperation, Refused
from txn.model import Batch, BranchKey, Message, Operation, Reply
from txn.prepared import PreparedParticipant
from txn.state import Vote
from txn.store.opening import schema_of
from txn.store.postgres import PostgresTx
from txn.store.postgres_prepared import PREPARING_CONNECTIONS_MAX, open_prepared_store

LONG_NAME = "c" * 20
SCHEMA = (
    "CREATE TABLE account (name TEXT PRIMARY KEY, amount BIGINT NOT NULL)",
    "INSERT INTO account VALUES ('ann', 0), ('bob', 0)",
    "CREATE TABLE pair (name TEXT UNIQUE DEFERRABLE INITIALLY DEFERRED)",
)


class Scripted:
    """Adds 1 to the account that the operation names, or does what it says instead."""

    def run(self, tx: PostgresTx, key: BranchKey, operation: str) -> Vote:
        """See PreparedResource."""
        if operation in ("ann", "bob"):
            tx.execute("UPDATE account SET amount = amount + 1 WHERE name = ?", (operation,))
            return Vote.COMMIT
        if operation in ("refuse", "read", "abort"):
            tx.execute("INSERT INTO account VALUES ('eve', 1)")
            if operation == "refuse":
                raise Refused("NO")
            return Vote.READ_ONLY if operation == "read" else Vote.ABORT
        return _wrong(tx, operation)


def _wrong(tx: PostgresTx, operation: str) -> Vote:
    """What business code must not do, or cannot."""
    if operation == "raise":
        raise ValueError("secret")
    if operation == "again":
        tx.execute("COMMIT")
        tx.execute("BEGIN")
    elif operation == "failed":
        with suppress(psycopg.Error):
            tx.execute("SELECT 1 / 0")
    elif operation == "deferred":
        tx.execute("INSERT INTO pair VALUES ('secret'), ('secret')")
    elif operation == "settings":
        tx.execute("SET search_path TO nowhere")
    else:
        tx.execute(operation)
    return Vote.COMMIT


class TextCodec:
    """Operations as text; one that is empty breaks a rule."""

    def decode(self, operation: Operation) -> str:
        """See Codec."""
        if not operation.value:
            raise InvalidOperation([FieldViolation("operation", "some", "must not be empty")])
        return self.read(operation)

    def read(self, operation: Operation) -> str:
        """See Codec."""
        return operation.value.decode()


class PreparedRig:
    """One participant, and what its database shows to others."""

    def __init__(
        self, server: PostgresServer, schema: str, participant: PreparedParticipant[str]
    ) -> None:
        self.server = server
        self.schema = schema
        self.participant = participant

    async def said(self, *messages: Message) -> list[Reply | type[Exception]]:
        """The answers to one batch; errors as their types."""
        replies: Sequence[Reply] = await self.participant.exchange(Batch(messages))
        return [type(each) if isinstance(each, Exception) else each for each in replies]

    def query(self, query: str) -> list[Any]:
        """What a stranger sees."""
        with self.server.connect(options=f"-c search_path={self.schema}") as connection:
            return connection.execute(query.encode()).fetchall()

    def amounts(self) -> dict[str, int]:
        """What is in the accounts."""
        return dict(self.query("SELECT name, amount FROM account"))

    def gids(self) -> list[str]:
        """What is prepared of this schema."""
        found = self.query("SELECT gid FROM pg_prepared_xacts ORDER BY gid")
        return [gid for (gid,) in found if gid.split("/")[1:2] == [self.schema]]

    def rows(self) -> list[Any]:
        """What the barrier remembers."""
        return self.query("SELECT txn_id, state, reason FROM branch ORDER BY txn_id")


@asynccontextmanager
async def open_prepared(
    server: PostgresServer,
    schema: str = "",
    connections: int = PREPARING_CONNECTIONS_MAX,
    crash_point: CrashPoint = no_crash,
) -> AsyncIterator[PreparedRig]:
    """A participant in a schema: a new one, unless it is named. What it leaves prepared goes."""
    schema = schema or server.schema()
    clock = SystemClock()
    own = schema_of("test", SCHEMA)
    store = open_prepared_store(server.dsn, schema, own, clock, connections=connections)
    participant = PreparedParticipant(
        store=store,
        resource=Scripted(),
        codec=TextCodec(),
        coordinators=COORDINATORS | {LONG_NAME},
        clock=clock,
        crash_point=crash_point,
    )
    try:
        yield PreparedRig(server, schema, participant)
    finally:
        await participant.close()
        await store.close()


def roll_back_all(server: PostgresServer, schema: str) -> None:
    """Undoes what a test has left prepared, so that it holds nothing up."""
    with server.connect() as connection:
        held = connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall()
        for (gid,) in held:
            if str(gid).split("/")[1:2] == [schema]:
                connection.execute(f"ROLLBACK PREPARED '{gid}'".encode())
