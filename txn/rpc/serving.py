"""Runs a participant, or a coordinator, on a server of yours: everything around your resource.

For programs that need no more than that. A service with its own order of starting and
stopping puts the same parts together itself.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from tallystick.txn.v1 import coordinator_service_pb2_grpc, participant_service_pb2_grpc

from txn.clock import Clock, SystemClock
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.crash_point import CrashPoint, no_crash
from txn.forgetter import Forgetter, ForgetterConfig
from txn.ids import new_id_after
from txn.inquirer import Inquirer, InquiryConfig
from txn.log_keeper import LogKeeper, LogKeeperConfig
from txn.participant import Participant
from txn.participant_kind import ParticipantKind
from txn.resource import BatchResource, Resource
from txn.rpc.coordinator import CoordinatorServicer, GrpcCoordinatorTransport
from txn.rpc.operation import OperationCodec
from txn.rpc.participant import ParticipantServicer
from txn.rpc.participant_transport import GrpcParticipantTransport
from txn.store import sql_branches, sql_log
from txn.store.log_mark import LogMark
from txn.store.opening import SqliteStore, open_store, schema_of
from txn.store.sqlite import take_ownership
from txn.store.sqlite_verify import verify

# What calls and streams have to end, when the block is left.
STOP_GRACE_S = 5.0

M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)


class _Tables(Protocol[M_co]):
    """What a resource says of itself, so that it can be served."""

    @property
    def operation(self) -> type[M_co]:
        """The type of its operations."""

    @property
    def schema(self) -> Sequence[str]:
        """Its tables, as SQL scripts: add new ones at the end, change none."""


class ServedResource(_Tables[M], Resource[sqlite3.Connection, M], Protocol[M]):
    """A Resource on SQLite that says what its operations and its tables are."""


class ServedBatchResource(_Tables[M], BatchResource[sqlite3.Connection, M], Protocol[M]):
    """A BatchResource on SQLite that says what its operations and its tables are."""


@asynccontextmanager
async def serve_participant(
    server: grpc.aio.Server,
    name: str,
    resource: ServedResource[M] | ServedBatchResource[M],
    *,
    home: str | Path,
    coordinators: Mapping[str, grpc.aio.Channel],
    inquiry: InquiryConfig | None = None,
    forgetting: ForgetterConfig | None = None,
    crash_point: CrashPoint = no_crash,
) -> AsyncIterator[SqliteStore]:
    """Serves `resource` inside the block, and yields its store.

    The store is `<home>/<name>.db`, with the tables of the resource and the barrier's own.
    Adds ParticipantService to `server` and starts that; add services of your own, and a
    port, before. Asks about branches that stay in doubt: `coordinators` are channels by the
    names of those who may be asked. The channels stay yours. `crash_point` is for tests, see
    crash_point.py. Raises what `open_store` raises.
    """
    async with AsyncExitStack() as stack:
        schema = {**schema_of(name, resource.schema), **sql_branches.schema()}
        store = open_store(Path(home) / f"{name}.db", schema)
        stack.push_async_callback(store.close)
        clock = SystemClock()
        participant = Participant(
            store=store,
            branches=sql_branches.SqlBranchTable(),
            resource=resource,
            codec=OperationCodec(resource.operation),
            coordinators=frozenset(coordinators),
            clock=clock,
            crash_point=crash_point,
        )
        await stack.enter_async_context(
            serving(
                server,
                participant,
                coordinators=coordinators,
                clock=clock,
                inquiry=inquiry,
                forgetting=forgetting,
                crash_point=crash_point,
            )
        )
        yield store


@asynccontextmanager
async def serving(
    server: grpc.aio.Server,
    participant: ParticipantKind,
    *,
    coordinators: Mapping[str, grpc.aio.Channel],
    clock: Clock,
    inquiry: InquiryConfig | None,
    forgetting: ForgetterConfig | None,
    crash_point: CrashPoint,
) -> AsyncIterator[None]:
    """What `serve_participant` does around a participant, of whatever kind."""
    async with AsyncExitStack() as stack:
        transport = GrpcCoordinatorTransport(coordinators.__getitem__)
        inquirer = Inquirer(
            participant,
            transport,
            clock=clock,
            rng=_rng(),
            config=inquiry,
            crash_point=crash_point,
        )
        forgetter = Forgetter(
            participant,
            transport,
            clock=clock,
            rng=_rng(),
            config=forgetting,
            crash_point=crash_point,
        )
        for work in (inquirer.run(), forgetter.run()):
            stack.push_async_callback(_ended, asyncio.ensure_future(work))
        servicer = ParticipantServicer(participant)
        participant_service_pb2_grpc.add_ParticipantServiceServicer_to_server(servicer, server)
        await server.start()
        stack.push_async_callback(server.stop, STOP_GRACE_S)
        stack.push_async_callback(servicer.drain, STOP_GRACE_S)
        yield


@asynccontextmanager
async def serve_coordinator(
    server: grpc.aio.Server,
    name: str,
    *,
    home: str | Path,
    participants: Mapping[str, grpc.aio.Channel],
    config: CoordinatorConfig | None = None,
    keeping: LogKeeperConfig | None = None,
    crash_point: CrashPoint = no_crash,
) -> AsyncIterator[Coordinator]:
    """Serves a coordinator inside the block, and yields it when it has recovered.

    Its decision log is `<home>/<name>.db`, which no other process may have open. Adds
    CoordinatorService to `server` and starts that. `participants` are channels by the
    names that branches give; participants ask back under `name`. Raises ValueError when
    `config` says otherwise, AlreadyOwned, LogDamaged, and what `open_store` raises.
    """
    config = config or CoordinatorConfig(name=name, participants=frozenset(participants))
    _refuse_contradiction(config, name, participants)
    async with AsyncExitStack() as stack:
        path = Path(home) / f"{name}.db"
        stack.callback(os.close, take_ownership(path))
        mark = LogMark(path)
        stack.callback(mark.close)
        verify(path)
        log = open_store(path, sql_log.schema())
        stack.push_async_callback(log.close)
        transport = GrpcParticipantTransport(participants.__getitem__, name)
        stack.push_async_callback(transport.close)
        clock = SystemClock()
        decisions = sql_log.SqlDecisionLog(log, clock, mark)
        coordinator = Coordinator(
            config=config,
            log=decisions,
            transport=transport,
            clock=clock,
            rng=_rng(),
            new_txn_id=new_id_after,
            crash_point=crash_point,
        )
        servicer = CoordinatorServicer(coordinator, channel_for=participants.__getitem__)
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, server)
        await coordinator.start()
        stack.push_async_callback(coordinator.close, STOP_GRACE_S)
        keeper = LogKeeper(
            decisions, clock=clock, rng=_rng(), config=keeping, crash_point=crash_point
        )
        stack.push_async_callback(_ended, asyncio.ensure_future(keeper.run()))
        await server.start()
        stack.push_async_callback(server.stop, STOP_GRACE_S)
        stack.push_async_callback(servicer.drain, STOP_GRACE_S)
        yield coordinator


def _refuse_contradiction(
    config: CoordinatorConfig, name: str, participants: Mapping[str, grpc.aio.Channel]
) -> None:
    if config.name != name:
        # A Prepare would name the one and a batch the other, to be asked back.
        raise ValueError(f"config.name must be {name!r}, the name that is served: {config.name!r}")
    if unreachable := sorted(config.participants - participants.keys()):
        raise ValueError(f"config.participants must all have a channel: {', '.join(unreachable)}")


def _rng() -> random.Random:
    return random.Random()  # noqa: S311 - jitter, not secrets


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
