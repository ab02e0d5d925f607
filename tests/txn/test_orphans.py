"""The scan for what is prepared and left: one of each kind, and what is done about it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import psycopg
import pytest
import pytest_asyncio
from tallystick.txn.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc

from services import orphans as command
from tests.support.postgres import PostgresServer
from tests.txn.helpers import COORDINATORS, key, operation
from tests.txn.store.prepared_rig import Scripted, TextCodec
from txn.clock import SystemClock
from txn.errors import OtherLog, StoreError, TooOld, Unreachable
from txn.model import BranchKey, Prepare, VoteReply
from txn.orphans import Orphan, OrphanKind, OrphanScan
from txn.prepared import PreparedParticipant
from txn.prepared_name import prefix_of
from txn.rpc.inquiring import GrpcInquiry
from txn.rpc.status import Context, abort_with, status_of
from txn.state import Outcome, Vote
from txn.store.opening import schema_of
from txn.store.postgres import lock_number
from txn.store.postgres_prepared import open_prepared_store

SAYS: dict[str, Outcome | Exception] = {
    "t1": Outcome.COMMITTED,
    "t2": Outcome.ABORTED,
    "t3": Outcome.PENDING,
    "t4": Unreachable("UNAVAILABLE"),
    "t5": OtherLog("of another log"),
    "t6": TooOld("too old"),
}
KINDS = {
    "t1": OrphanKind.COMMITTED,
    "t2": OrphanKind.ABORTED,
    "t3": OrphanKind.PENDING,
    "t4": OrphanKind.NO_ANSWER,
    "t5": OrphanKind.OTHER_LOG,
    "t6": OrphanKind.TOO_OLD,
    "": OrphanKind.FOREIGN,
}
ROOT = Path(__file__).parents[2]
COMMAND_S = 60.0
# It is answered about another.
ODD = "odd"
FOREIGN = "somebody/else's"


@dataclass
class Oracle(coordinator_service_pb2_grpc.CoordinatorServiceServicer):
    """A coordinator that says what SAYS says: an Inquiry, and what one over gRPC asks."""

    asked: list[str] = field(default_factory=list)

    async def ask(self, key: BranchKey) -> Outcome:
        """See Inquiry."""
        self.asked.append(key.txn_id)
        said = SAYS[key.txn_id]
        if isinstance(said, Exception):
            raise said
        return said

    async def Inquire(  # noqa: N802
        self, request: coordinator_service_pb2.InquireRequest, context: Context
    ) -> coordinator_service_pb2.InquireResponse:
        """As a coordinator's servicer."""
        if request.txn_id == ODD:
            return coordinator_service_pb2.InquireResponse(txn_id="t1")
        said = SAYS[request.txn_id]
        if isinstance(said, OtherLog | TooOld | Unreachable):
            await abort_with(context, status_of(said))
        assert isinstance(said, Outcome)
        outcome = coordinator_service_pb2.Outcome.Value(f"OUTCOME_{said.name}")
        return coordinator_service_pb2.InquireResponse(txn_id=request.txn_id, outcome=outcome)


def oracle() -> Oracle:
    """One that was asked nothing yet."""
    return Oracle()  # type: ignore[abstract]


@pytest_asyncio.fixture
async def dsn(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A database with one of each kind, whose participant is gone."""
    dsn = postgres_server.database()
    store = open_prepared_store(dsn, "shop", schema_of("test", SHOP), SystemClock())
    participant = PreparedParticipant(
        store=store,
        resource=Scripted(),
        codec=TextCodec(),
        coordinators=COORDINATORS,
        clock=SystemClock(),
    )
    for name in SAYS:
        what = operation(f"INSERT INTO sold VALUES ('{name}')".encode())
        reply = await participant.prepare(Prepare(key(name), "coordinator", what))
        assert VoteReply(Vote.COMMIT) == reply
    await store.close()
    with psycopg.connect(dsn, autocommit=True) as stranger:
        stranger.execute("BEGIN; INSERT INTO shop.sold VALUES ('stranger')")
        stranger.execute("PREPARE TRANSACTION 'somebody/else''s'")
        yield dsn
        for (gid,) in stranger.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        ).fetchall():
            stranger.execute("ROLLBACK PREPARED '" + gid.replace("'", "''") + "'")


SHOP = ("CREATE TABLE sold (name TEXT)",)


def sold(dsn: str) -> list[str]:
    """What has taken effect."""
    with psycopg.connect(dsn) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM shop.sold")]


def prepared(dsn: str) -> set[str]:
    """What is still prepared, by txn_id."""
    query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
    with psycopg.connect(dsn) as connection:
        gids = [gid for (gid,) in connection.execute(query)]
    return {"" if gid == FOREIGN else gid.split("/")[2] for gid in gids}


def kinds(found: list[Orphan]) -> dict[str, OrphanKind]:
    """What each is, by its txn_id; empty of what is foreign."""
    return {each.name.key.txn_id if each.name else "": each.kind for each in found}


async def test_a_look_says_what_each_is_and_changes_nothing(dsn: str) -> None:
    """One of each kind; whoever has prepared it is asked about only if it is ours."""
    asked = oracle()
    found = await OrphanScan(dsn, asked, SystemClock()).look(resolve=False)
    assert kinds(found) == KINDS
    assert sorted(SAYS) == asked.asked
    assert all(0 <= each.age_s < 600 and not each.resolved for each in found)
    assert set(KINDS) == prepared(dsn)
    assert [] == sold(dsn)


async def test_another_database_is_not_looked_at(dsn: str, postgres_server: PostgresServer) -> None:
    """Nobody who is connected to this one could end what is prepared there."""
    with postgres_server.connect() as elsewhere:
        elsewhere.execute("BEGIN; CREATE TABLE elsewhere (name TEXT)")
        elsewhere.execute("PREPARE TRANSACTION 'in another database'")
        found = await OrphanScan(dsn, oracle(), SystemClock()).look(resolve=False)
        elsewhere.execute("ROLLBACK PREPARED 'in another database'")
    assert kinds(found) == KINDS
    assert len(found) == len(KINDS)


async def test_what_the_log_has_decided_is_done_and_nothing_else(dsn: str) -> None:
    """As its participant would have done it: a second look finds only what is left."""
    scan = OrphanScan(dsn, oracle(), SystemClock())
    found = await scan.look(resolve=True)
    assert {"t1", "t2"} == {each.name.key.txn_id for each in found if each.name and each.resolved}
    assert [""] * len(found) == [each.problem for each in found]
    left = set(KINDS) - {"t1", "t2"}
    assert left == prepared(dsn) == set(kinds(await scan.look(resolve=True)))
    assert ["t1"] == sold(dsn)
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT txn_id, state FROM shop.branch ORDER BY txn_id")
        assert [("t1", "COMMITTED"), ("t2", "ABORTED")] == rows.fetchall()


async def test_what_cannot_be_resolved_is_told(dsn: str) -> None:
    """Its participant is at work on it, for longer than the scan waits; the others are resolved."""
    scan = OrphanScan(dsn, oracle(), SystemClock())
    with psycopg.connect(dsn, autocommit=True) as stranger:
        at_work = lock_number(prefix_of("shop", key("t2")))
        stranger.execute("SELECT pg_advisory_lock(%s)", (at_work,))
        found = await scan.look(resolve=True)
    told = {str(each.name.key.txn_id): each for each in found if each.name}
    assert told["t1"].resolved
    assert not told["t2"].resolved
    assert "no transaction could be opened" == told["t2"].problem
    assert "t2" in prepared(dsn)


async def test_a_database_that_is_away_is_told() -> None:
    """As for any other store."""
    scan = OrphanScan("host=127.0.0.1 port=1", oracle(), SystemClock())
    with pytest.raises(StoreError, match="cannot be reached"):
        await scan.look(resolve=True)


@pytest_asyncio.fixture
async def coordinator() -> AsyncIterator[str]:
    """The address of one that says what SAYS says."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(oracle(), server)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_over_grpc_a_coordinator_says_the_same(coordinator: str) -> None:
    """Each answer, and each way of not giving one."""
    async with grpc.aio.insecure_channel(coordinator) as channel:
        inquiry = GrpcInquiry(channel)
        for name, said in SAYS.items():
            if isinstance(said, Outcome):
                assert said is await inquiry.ask(key(name))
            else:
                with pytest.raises(type(said)):
                    await inquiry.ask(key(name))
        with pytest.raises(Unreachable, match="ANSWERS_MISPLACED"):
            await inquiry.ask(key(ODD))


async def test_the_command_lists_and_resolves(dsn: str, coordinator: str) -> None:
    """For people and as JSON; its code says whether something is left that could be resolved."""
    arguments = ["--dsn", dsn, "--coordinator", coordinator]
    code, said, _ = await _run(*arguments)
    assert command.EXIT_LEFT == code
    assert len(KINDS) == len(said.splitlines())
    assert FOREIGN in said
    code, said, _ = await _run(*arguments, "--json", "--resolve")
    assert 0 == code
    listed = {each["txn_id"] or "": each for each in json.loads(said)}
    assert {name: kind.name for name, kind in KINDS.items()} == {
        name: each["kind"] for name, each in listed.items()
    }
    assert [True, True, False] == [listed[name]["resolved"] for name in ("t1", "t2", "t3")]
    code, said, _ = await _run(*arguments)
    assert (0, len(KINDS) - 2) == (code, len(said.splitlines()))


@pytest.mark.parametrize(
    ("dsn", "lack"), [("", "name a database"), ("host=127.0.0.1 port=1", "cannot be reached")]
)
async def test_the_command_says_what_it_lacks(dsn: str, lack: str) -> None:
    """In one line, with a code of its own."""
    code, said, lacks = await _run("--dsn", dsn, "--coordinator", "127.0.0.1:1")
    assert (command.EXIT_FAILED, "") == (code, said)
    assert lack in lacks.splitlines()[-1]


async def _run(*arguments: str) -> tuple[int | None, str, str]:
    """As a process: a loop of its own beside this one would not do for gRPC."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.orphans",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'generated'}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, lacks = await asyncio.wait_for(process.communicate(), COMMAND_S)
    return process.returncode, said.decode(), lacks.decode()
