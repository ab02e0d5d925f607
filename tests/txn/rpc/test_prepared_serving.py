"""A coordinator, a participant on SQLite and one that prepares transactions, over real gRPC.

The latter is a process of its own, which is killed where it hurts.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.wrappers_pb2 import StringValue

from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually
from tests.txn.rpc.prepared_process import LOCAL_OPTIONS, Accounts
from tests.txn.rpc.test_serving import Seats, seats
from txn import InquiryConfig, TransactionAborted
from txn import crash_point as at
from txn.rpc import TransactionClient, serve_coordinator, serve_participant
from txn.rpc.prepared_serving import serve_prepared_participant
from txn.store.opening import SqliteStore

ROOT = Path(__file__).parents[3]
# To start a process, on a machine that is busy.
START_S = 60.0
SETTLED_S = 60.0


class Booking:
    """What a test needs of the three."""

    def __init__(
        self, server: PostgresServer, store: SqliteStore, client: TransactionClient, address: str
    ) -> None:
        self.server = server
        self.schema = server.schema()
        self.client = client
        self.coordinator = address
        self._store = store
        self._port = 0
        self._processes: list[asyncio.subprocess.Process] = []

    def serve_at(self, port: int) -> None:
        """Where the coordinator expects the accounts."""
        self._port = port

    async def start(self, crash_at: str = "") -> asyncio.subprocess.Process:
        """Starts the process with the accounts; it serves on return."""
        arguments = (self.server.dsn, self.schema, str(self._port), self.coordinator, crash_at)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.txn.rpc.prepared_process",
            *arguments,
            cwd=ROOT,
            env=_environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        self._processes.append(process)
        assert process.stdout is not None
        said = await asyncio.wait_for(process.stdout.readline(), START_S)
        assert said == b"serving\n"
        return process

    async def sold(self) -> list[tuple[str, int]]:
        """The seats."""
        return await self._store.read(seats)

    def ann(self) -> object:
        """What ann has left, as far as anybody sees."""
        return self._one(f"SELECT amount FROM {self.schema}.account WHERE name = 'ann'")

    def held(self) -> object:
        """How many branches are prepared."""
        mine = f"tallystick/{self.schema}/"
        return self._one(f"SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE '{mine}%'")

    def gids(self) -> list[str]:
        """Their names."""
        with self.server.connect() as connection:
            found = connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall()
        return [str(gid) for (gid,) in found if f"/{self.schema}/" in str(gid)]

    async def scan(self, *options: str) -> dict[str, tuple[str, bool]]:
        """What the command says of each: what the log says, and whether it is resolved."""
        found = json.loads(
            await self._output(
                "services.orphans",
                *("--dsn", self.server.dsn, "--coordinator", self.coordinator, "--json", *options),
            )
        )
        mine = [each for each in found if each["schema"] == self.schema]
        return {each["gid"]: (each["kind"], each["resolved"]) for each in mine}

    async def _output(self, module: str, *arguments: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments,
            cwd=ROOT, env=_environment(), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(), START_S)
        return said

    def _one(self, query: str) -> object:
        with self.server.connect() as connection:
            (value,) = connection.execute(query.encode()).fetchone() or (None,)
        return value

    async def close(self) -> None:
        """Kills what still runs."""
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'generated'}"}


@asynccontextmanager
async def _booking(server: PostgresServer, home: Path) -> AsyncIterator[Booking]:
    async with AsyncExitStack() as stack:
        servers = {name: grpc.aio.server() for name in ("seats", "booking")}
        ports = {name: each.add_insecure_port("127.0.0.1:0") for name, each in servers.items()}
        ports["accounts"] = free_port()
        to = {
            name: await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=LOCAL_OPTIONS)
            )
            for name, port in ports.items()
        }
        asked = {"booking": to["booking"]}
        store = await stack.enter_async_context(
            serve_participant(servers["seats"], "seats", Seats(), home=home, coordinators=asked)
        )
        both = {name: to[name] for name in ("seats", "accounts")}
        await stack.enter_async_context(
            serve_coordinator(servers["booking"], "booking", home=home, participants=both)
        )
        client = await stack.enter_async_context(TransactionClient(to["booking"]))
        booking = Booking(server, store, client, f"127.0.0.1:{ports['booking']}")
        stack.push_async_callback(booking.close)
        booking.serve_at(ports["accounts"])
        yield booking


@pytest_asyncio.fixture
async def booking(postgres_server: PostgresServer, tmp_path: Path) -> AsyncIterator[Booking]:
    """The three, of which the accounts are not started."""
    async with _booking(postgres_server, tmp_path) as booking:
        yield booking


def both(seat: str, account: str) -> dict[str, StringValue]:
    """A seat, and who pays for it."""
    return {"seats": StringValue(value=seat), "accounts": StringValue(value=account)}


async def test_a_transaction_runs_over_both_kinds(booking: Booking) -> None:
    """It takes effect at both or at neither, and a single branch takes one phase."""
    await booking.start()
    await booking.client.execute(both("7C", "ann"), idempotency_key="1", timeout_s=SETTLED_S)
    for number, operations in enumerate((both("8A", "bob"), both("7C", "ann"))):
        with pytest.raises(TransactionAborted, match=("EMPTY", "SEAT_TAKEN")[number]):
            await booking.client.execute(
                operations, idempotency_key=f"no-{number}", timeout_s=SETTLED_S
            )
    assert 1 == booking.ann()
    alone = {"accounts": StringValue(value="ann")}
    await booking.client.execute(alone, idempotency_key="2", timeout_s=SETTLED_S)
    assert (0, 0) == (booking.ann(), booking.held())

    async def free() -> bool:
        return [("7C", 1)] == await booking.sold()

    await eventually(free)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "crash_at",
    [at.BEFORE_VOTE, at.AFTER_VOTE, at.VOTE_LEAVES, at.BEFORE_APPLY, at.AFTER_APPLY],
)
async def test_who_is_killed_and_comes_back_finishes(booking: Booking, crash_at: str) -> None:
    """Between PREPARE and its answer, and between the decision and COMMIT PREPARED, for two."""
    process = await booking.start(crash_at)
    paying = asyncio.ensure_future(
        booking.client.execute(both("7C", "ann"), idempotency_key="1", timeout_s=SETTLED_S)
    )
    assert -9 == await asyncio.wait_for(process.wait(), START_S)
    if crash_at not in (at.BEFORE_VOTE, at.AFTER_APPLY):
        assert (2, 1) == (booking.ann(), booking.held())
    await booking.start()
    # Before it is decided, it may be back too late for the coordinator to go on waiting.
    told = crash_at in (at.BEFORE_APPLY, at.AFTER_APPLY)
    with nullcontext() if told else suppress(TransactionAborted):
        await paying
    sold = await booking.sold()

    def settled() -> bool:
        return booking.held() == 0

    await eventually(settled, SETTLED_S)
    assert (1 if [("7C", 1)] == sold else 2) == booking.ann()


@pytest.mark.timeout(240)
async def test_another_process_settles_what_one_that_is_gone_has_prepared(
    booking: Booking,
) -> None:
    """Nobody sends it a Commit: it finds what is in doubt in the database, and asks."""
    process = await booking.start(at.BEFORE_APPLY)
    paying = asyncio.ensure_future(
        booking.client.execute(both("7C", "ann"), idempotency_key="1", timeout_s=SETTLED_S)
    )
    assert -9 == await asyncio.wait_for(process.wait(), START_S)
    assert (2, 1) == (booking.ann(), booking.held())
    server = grpc.aio.server()
    async with (
        grpc.aio.insecure_channel(booking.coordinator, options=LOCAL_OPTIONS) as channel,
        serve_prepared_participant(
            server,
            booking.schema,
            Accounts(),
            dsn=booking.server.dsn,
            coordinators={"booking": channel},
            inquiry=InquiryConfig(interval_s=0.05, jitter_s=0.0),
        ),
    ):
        await eventually(lambda: booking.ann() == 1, SETTLED_S)
        assert 0 == booking.held()
    # The coordinator hears of it from the one that it knows.
    await booking.start()
    await paying


@pytest.mark.timeout(240)
async def test_the_scan_for_orphans_does_what_the_log_says(booking: Booking) -> None:
    """Of participants that are gone: what was decided, and what the log knows nothing of."""
    process = await booking.start(at.BEFORE_APPLY)
    paying = asyncio.ensure_future(
        booking.client.execute(both("7C", "ann"), idempotency_key="1", timeout_s=SETTLED_S)
    )
    assert -9 == await asyncio.wait_for(process.wait(), START_S)
    (decided,) = booking.gids()
    # Of the same log, but nobody has begun it there.
    unknown = decided.replace(decided.split("/")[2], f"0{decided.split('/')[2][1:]}")
    with booking.server.connect() as connection:
        connection.execute(
            f"BEGIN; INSERT INTO {booking.schema}.account VALUES ('eve', 1)".encode()
        )
        connection.execute(f"PREPARE TRANSACTION '{unknown}'".encode())
    listed = {gid: kind for gid, (kind, _) in (await booking.scan()).items()}
    assert {decided: "COMMITTED", unknown: "ABORTED"} == listed
    assert {("COMMITTED", True), ("ABORTED", True)} == set(
        (await booking.scan("--resolve")).values()
    )
    assert (1, [], {}) == (booking.ann(), booking.gids(), await booking.scan())
    await booking.start()
    await paying
