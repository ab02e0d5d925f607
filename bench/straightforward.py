"""The baseline: two-phase commit in the obvious style, and correct.

For each transaction five unary calls: the caller's Execute, and Prepare and Commit at both
participants, in parallel. Each step is forced by itself: each vote, the decision, each
apply, the end. The participants are the shipped ones, with the same operations, barrier
and SQL, over a store that commits one message at a time; the coordinator keeps the same
rows, with the same keys. Channels are plain ones and the event loop is uvloop, as on the
other side.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc.aio
import uvloop
from tallystick.txn.v1 import (
    coordinator_service_pb2,
    participant_service_pb2,
    participant_service_pb2_grpc,
)

from bench.payments import PARTICIPANTS
from bench.peers import Peer, commands, run_role, tell
from bench.stocking import book
from services.ids import new_id
from services.ledger.transfer import TransferResource
from services.operations import PAY_TRADE, TRANSFER
from services.order.payment import PayTradeResource
from txn.clock import SystemClock
from txn.participant import Participant
from txn.rpc import ParticipantServicer
from txn.store import sql_branches
from txn.store.group_commit import Report

TIMEOUT_S: Final = 30.0
EXECUTE: Final = "/tallystick.txn.v1.CoordinatorService/Execute"
COORDINATOR: Final = "coordinator"
_LOG_ID: Final = "-0123456789abcdef"

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")


class OneByOne:
    """A store for which every piece of work is a transaction of its own, forced by itself.

    It runs on the event loop: with the forces on a thread the whole was a quarter slower.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("PRAGMA wal_autocheckpoint = 16384")

    async def write(self, work: Callable[[sqlite3.Connection], T], *, essential: bool = False) -> T:
        """See Store.write."""
        del essential
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(self._connection)
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        return result

    async def write_all(
        self,
        apply: Callable[[sqlite3.Connection, Sequence[In]], Sequence[Out]],
        inputs: Sequence[In],
        *,
        essential: bool = False,
        alone: bool = False,
    ) -> list[Out | Exception]:
        """See Store.write_all."""
        del essential, alone
        results: list[Out | Exception] = []
        for each in inputs:
            try:
                results += await self.write(lambda tx, each=each: apply(tx, [each]))  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001 - it belongs to the submitter
                results.append(error)
        return results

    def write_lazily(
        self,
        work: Callable[[sqlite3.Connection], object],
        report: Report,
        *,
        essential: bool = False,
    ) -> None:
        """Nothing here is lazy."""
        raise NotImplementedError

    def hold(self, guard: Callable[[sqlite3.Connection], None]) -> None:
        """A straightforward coordinator is alone."""

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """See Store.read."""
        return work(self._connection)

    look_up = read


class Coordinator:
    """Execute, and nothing else."""

    def __init__(self, path: Path, addresses: dict[str, str]) -> None:
        self._store = OneByOne(path)
        self._channels = [grpc.aio.insecure_channel(each) for each in addresses.values()]
        stub = participant_service_pb2_grpc.ParticipantServiceStub
        self._stubs: dict[str, participant_service_pb2_grpc.ParticipantServiceAsyncStub] = {
            name: stub(channel) for name, channel in zip(addresses, self._channels, strict=True)
        }

    async def execute(
        self,
        request: coordinator_service_pb2.ExecuteRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> coordinator_service_pb2.ExecuteResponse:
        """See the proto; a key that was used before is refused."""
        key = request.idempotency_key
        if await self._store.read(lambda tx: _known(tx, key)):
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "the key was used before")
        txn_id = new_id() + _LOG_ID
        votes = await asyncio.gather(
            *(self._prepare(txn_id, branch) for branch in request.branches)
        )
        if any(vote != participant_service_pb2.VOTE_COMMIT for vote in votes):
            await asyncio.gather(*(self._abort(txn_id, branch) for branch in request.branches))
            return coordinator_service_pb2.ExecuteResponse(
                txn_id=txn_id, outcome=coordinator_service_pb2.OUTCOME_ABORTED
            )
        await self._store.write(lambda tx: _decide(tx, txn_id, request))
        await asyncio.gather(*(self._commit(txn_id, branch) for branch in request.branches))
        await self._store.write(lambda tx: _end(tx, txn_id))
        return coordinator_service_pb2.ExecuteResponse(
            txn_id=txn_id, outcome=coordinator_service_pb2.OUTCOME_COMMITTED
        )

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels:
            await channel.close()

    async def _prepare(
        self, txn_id: str, branch: coordinator_service_pb2.Branch
    ) -> participant_service_pb2.Vote.ValueType:
        request = participant_service_pb2.PrepareRequest(
            txn_id=txn_id,
            branch_id=branch.branch_id,
            coordinator=COORDINATOR,
            operation=branch.operation,
        )
        reply = await self._stubs[branch.participant].Prepare(request, timeout=TIMEOUT_S)
        return reply.vote

    async def _commit(self, txn_id: str, branch: coordinator_service_pb2.Branch) -> None:
        request = participant_service_pb2.CommitRequest(txn_id=txn_id, branch_id=branch.branch_id)
        await self._stubs[branch.participant].Commit(request, timeout=TIMEOUT_S)

    async def _abort(self, txn_id: str, branch: coordinator_service_pb2.Branch) -> None:
        request = participant_service_pb2.AbortRequest(txn_id=txn_id, branch_id=branch.branch_id)
        await self._stubs[branch.participant].Abort(request, timeout=TIMEOUT_S)


def _known(tx: sqlite3.Connection, key: str) -> bool:
    query = "SELECT 1 FROM decision WHERE caller = 'anonymous' AND idempotency_key = ?"
    return tx.execute(query, (key,)).fetchone() is not None


def _decide(
    tx: sqlite3.Connection, txn_id: str, request: coordinator_service_pb2.ExecuteRequest
) -> None:
    branches = [(branch.branch_id, branch.participant, "COMMIT") for branch in request.branches]
    tx.execute(
        "INSERT INTO decision VALUES (?, 'COMMITTED', 'anonymous', ?, ?, ?, '', '', ?, 0, NULL)",
        (
            txn_id,
            request.idempotency_key,
            hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
            json.dumps(branches),
            time.time_ns() // 1_000,
        ),
    )


def _end(tx: sqlite3.Connection, txn_id: str) -> None:
    tx.execute("UPDATE decision SET ended = 1 WHERE txn_id = ?", (txn_id,))


async def participant(name: str, path: str) -> None:
    """One of the two, until told to end; tells its address first."""
    resource: Any = PayTradeResource if name == "order" else TransferResource
    codec: Any = PAY_TRADE if name == "order" else TRANSFER
    servicer = ParticipantServicer(
        Participant(
            store=OneByOne(Path(path)),
            branches=sql_branches.SqlBranchTable(),
            resource=resource(SystemClock()),
            codec=codec,
            coordinators=frozenset({COORDINATOR}),
            clock=SystemClock(),
        )
    )
    server = grpc.aio.server()
    participant_service_pb2_grpc.add_ParticipantServiceServicer_to_server(servicer, server)
    await _serve(server)


async def coordinator(path: str, addresses: dict[str, str]) -> None:
    """The coordinator, likewise."""
    servicer, server = Coordinator(Path(path), addresses), grpc.aio.server()
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        servicer.execute,
        request_deserializer=coordinator_service_pb2.ExecuteRequest.FromString,
        response_serializer=coordinator_service_pb2.ExecuteResponse.SerializeToString,
    )
    _, service, method = EXECUTE.split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    await _serve(server)
    await servicer.close()


async def _serve(server: grpc.aio.Server) -> None:
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tell(address=f"127.0.0.1:{port}")
    async for _ in commands():
        pass
    await server.stop(None)


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[str]:
    """All three over the stores in `home`, which exist; the coordinator's address."""
    async with AsyncExitStack() as stack:
        addresses = {}
        for name in PARTICIPANTS:
            peer = Peer(
                "bench.straightforward", "participant", name=name, path=str(book(home, name))
            )
            addresses[name] = (await (await stack.enter_async_context(peer)).hear())["address"]
        peer = Peer(
            "bench.straightforward",
            "coordinator",
            path=str(book(home, COORDINATOR)),
            addresses=addresses,
        )
        yield (await (await stack.enter_async_context(peer)).hear())["address"]


if __name__ == "__main__":
    uvloop.run(run_role({"participant": participant, "coordinator": coordinator}))
