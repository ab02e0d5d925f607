"""How a service comes to its store on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import psycopg
import pytest

from discovery import EtcdClient, EtcdResolver
from services.runtime import CannotStart, Runtime, RuntimeConfig
from services.store import DATABASE_WAIT_S, open_store, participant_schema
from tests.support.postgres import PostgresServer, running
from tests.support.waiting import WAIT_S, eventually
from tests.txn.helpers import FastClock
from txn.store.postgres import PostgresTx, own_alone

SCHEMA = partial(participant_schema, "ledger")


@asynccontextmanager
async def _runtime(home: Path, postgres: str) -> AsyncIterator[tuple[Runtime, FastClock]]:
    """What a service has while it starts; the registry is never asked. Its time is the test's."""
    config = RuntimeConfig("ledger", 0, "127.0.0.1:1", ("127.0.0.1:1",), home, postgres=postgres)
    client = EtcdClient(config.etcd)
    resolver = EtcdResolver(client)
    runtime = Runtime(config, grpc.aio.server(), resolver, asyncio.Event())
    runtime.clock = clock = FastClock()
    try:
        yield runtime, clock
    finally:
        await runtime.stop()
        await resolver.close()
        await client.close()


async def test_a_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    """However long it takes, the store is open soon after its return."""
    with running() as server:
        server.stop()
        async with _runtime(tmp_path, server.dsn) as (runtime, clock):
            opening = asyncio.ensure_future(open_store(runtime, SCHEMA))
            await eventually(lambda: clock.now_s > 3 * DATABASE_WAIT_S)
            assert not opening.done()
            await asyncio.to_thread(server.start)
            store = await asyncio.wait_for(opening, WAIT_S)
            assert 0 == await store.read(
                lambda tx: tx.execute("SELECT COUNT(*) FROM account").fetchone()[0]
            )


async def test_who_is_told_to_end_waits_no_longer(tmp_path: Path) -> None:
    """A process that has no store yet does not have to be killed."""
    with running() as server:
        server.stop()
        async with _runtime(tmp_path, server.dsn) as (runtime, clock):
            opening = asyncio.ensure_future(open_store(runtime, SCHEMA))
            await eventually(lambda: clock.now_s > 0)
            runtime.stopping.set()
            with pytest.raises(CannotStart, match="told to end"):
                await asyncio.wait_for(opening, WAIT_S)


async def test_a_log_that_is_owned_is_not_waited_for_without_end(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """A predecessor's connection may be about to end; one that stays wants the log alone."""
    database = postgres_server.database()
    server = psycopg.connect(database, autocommit=True)
    own_alone(PostgresTx(server), "ledger")
    async with _runtime(tmp_path, database) as (runtime, clock):
        with pytest.raises(CannotStart, match="another coordinator runs"):
            await open_store(runtime, SCHEMA, owner=True)
        assert DATABASE_WAIT_S <= clock.now_s < 2 * DATABASE_WAIT_S
    server.close()
