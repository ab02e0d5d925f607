"""Opens a service's store, and makes the service a participant where it is one."""

from __future__ import annotations

import importlib
import importlib.resources
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message
from tallystick.txn.v1 import participant_service_pb2, participant_service_pb2_grpc

from services.failpoints import crash_point
from services.housekeeping import forgetter_config
from services.runtime import CannotStart, Runtime
from txn.errors import StoreAway, StoreError
from txn.forgetter import Forgetter
from txn.inquirer import Inquirer
from txn.metrics import StoreMetrics
from txn.metrics_prometheus import PrometheusParticipantMetrics, PrometheusStoreMetrics
from txn.participant import Participant
from txn.resource import BatchResource, Resource
from txn.rpc import GrpcCoordinatorTransport, OperationCodec, ParticipantServicer
from txn.store import opening, sql_branches
from txn.store.group_commit import Store
from txn.store.migrate import Dialect, load
from txn.store.opening import Schema, SqliteStore
from txn.store.postgres import RECONNECT_DELAY_MAX_S, RECONNECT_FIRST_DELAY_S, PostgresStore
from txn.store.postgres import open_store as open_postgres
from txn.store.sql import Sql

M = TypeVar("M", bound=Message)
# Whom a participant asks when it is in doubt.
COORDINATORS = frozenset({"coordinator"})
# How long a database that can be reached may refuse: a predecessor's connection is ending.
DATABASE_WAIT_S = 10.0


def own_schema(service: str, dialect: Dialect = "sqlite") -> Schema:
    """The migrations in `services/<service>/migrations`."""
    package = importlib.import_module(f"services.{service}")
    return {service: load(importlib.resources.files(package) / "migrations" / dialect)}


def participant_schema(service: str, dialect: Dialect = "sqlite") -> Schema:
    """The same with a barrier beside it."""
    return {**own_schema(service, dialect), **sql_branches.schema(dialect)}


async def open_store(
    runtime: Runtime, schema: Callable[[Dialect], Schema], *, owner: bool = False
) -> Store[Sql]:
    """The store of this service, shared by its replicas; closed when the runtime stops.

    On PostgreSQL where the runtime names a database. An `owner` is a coordinator, see
    PostgresWriter.
    """
    metrics = PrometheusStoreMetrics(runtime.registry)
    store: SqliteStore | PostgresStore
    if runtime.config.postgres:
        store = await _on_postgres(runtime, schema("postgres"), metrics, owner=owner)
    else:
        path = runtime.config.data / f"{runtime.config.service}.db"
        try:
            store = opening.open_store(path, schema("sqlite"), metrics=metrics)
        except (OSError, sqlite3.Error, StoreError) as error:
            raise CannotStart(f"the store {path} cannot be opened: {error}") from error
    runtime.on_stop(store.close)
    return store


async def _on_postgres(
    runtime: Runtime, schema: Schema, metrics: StoreMetrics, *, owner: bool
) -> PostgresStore:
    """Waits for a server that is away, as long as it is, and for a predecessor's connection to end.

    Whoever ended instead would be started again, later and later, and be away when it is back.
    """
    service, clock = runtime.config.service, runtime.clock
    pause_s, until_s = RECONNECT_FIRST_DELAY_S, clock.monotonic() + DATABASE_WAIT_S
    while not runtime.stopping.is_set():
        try:
            return open_postgres(
                runtime.config.postgres, service, schema, owner=owner, metrics=metrics
            )
        except StoreAway:
            until_s = clock.monotonic() + DATABASE_WAIT_S
        except StoreError as error:
            if clock.monotonic() >= until_s:
                raise CannotStart(f"the store of {service} cannot be opened: {error}") from error
        await clock.sleep(pause_s)
        pause_s = min(2 * pause_s, RECONNECT_DELAY_MAX_S)
    raise CannotStart(f"told to end while the store of {service} could not be opened")


async def open_participant(
    runtime: Runtime,
    resource: Resource[Sql, M] | BatchResource[Sql, M],
    codec: OperationCodec[M],
) -> tuple[Store[Sql], str]:
    """Opens the store with a barrier in it, and serves ParticipantService over `resource`.

    Returns the store and the full name of the participant service.
    """
    store = await open_store(runtime, partial(participant_schema, runtime.config.service))
    metrics = PrometheusParticipantMetrics(runtime.registry)
    crashes = crash_point()
    participant = Participant(
        store=store,
        branches=sql_branches.SqlBranchTable(),
        resource=resource,
        codec=codec,
        coordinators=COORDINATORS,
        clock=runtime.clock,
        crash_point=crashes,
        metrics=metrics,
    )
    servicer = ParticipantServicer(participant)
    runtime.on_drain(servicer.drain)
    participant_service_pb2_grpc.add_ParticipantServiceServicer_to_server(servicer, runtime.server)
    for coordinator in COORDINATORS:
        # Looked up now, and not when it is first asked: the registry may be away then.
        runtime.channel(coordinator)
    transport = GrpcCoordinatorTransport(runtime.channel)
    inquirer = Inquirer(
        participant,
        transport,
        clock=runtime.clock,
        rng=runtime.rng,
        crash_point=crashes,
        metrics=metrics,
    )
    runtime.spawn(inquirer.run())
    forgetter = Forgetter(
        participant,
        transport,
        clock=runtime.clock,
        rng=runtime.rng,
        config=forgetter_config(os.environ),
        crash_point=crashes,
        metrics=metrics,
    )
    runtime.spawn(forgetter.run())
    service = participant_service_pb2.DESCRIPTOR.services_by_name["ParticipantService"]
    return store, service.full_name
