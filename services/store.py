"""Opens a service's store, and makes the service a participant where it is one."""

from __future__ import annotations

import importlib
import importlib.resources
import os
import sqlite3
from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import Message
from tallystick.txn.v1 import participant_service_pb2, participant_service_pb2_grpc

from services.failpoints import crash_point
from services.housekeeping import forgetter_config
from services.runtime import CannotStart, Runtime
from txn.errors import StoreError
from txn.forgetter import Forgetter
from txn.inquirer import Inquirer
from txn.metrics_prometheus import PrometheusParticipantMetrics, PrometheusStoreMetrics
from txn.participant import Participant
from txn.resource import BatchResource, Resource
from txn.rpc import GrpcCoordinatorTransport, OperationCodec, ParticipantServicer
from txn.store import opening, sqlite_branches
from txn.store.migrate import Migration, load
from txn.store.opening import SqliteStore

M = TypeVar("M", bound=Message)
# Whom a participant asks when it is in doubt.
COORDINATORS = frozenset({"coordinator"})


def own_schema(service: str) -> Mapping[str, tuple[Migration, ...]]:
    """The migrations in `services/<service>/migrations`."""
    package = importlib.import_module(f"services.{service}")
    return {service: load(importlib.resources.files(package) / "migrations" / "sqlite")}


def open_store(runtime: Runtime, schema: Mapping[str, tuple[Migration, ...]]) -> SqliteStore:
    """The store of this service, shared by its replicas; closed when the runtime stops."""
    service = runtime.config.service
    path = runtime.config.data / f"{service}.db"
    try:
        store = opening.open_store(path, schema, metrics=PrometheusStoreMetrics(runtime.registry))
    except (OSError, sqlite3.Error, StoreError) as error:
        raise CannotStart(f"the store {path} cannot be opened: {error}") from error
    runtime.on_stop(store.close)
    return store


def open_participant(
    runtime: Runtime,
    resource: Resource[sqlite3.Connection, M] | BatchResource[sqlite3.Connection, M],
    codec: OperationCodec[M],
) -> tuple[SqliteStore, str]:
    """Opens the store with a barrier in it, and serves ParticipantService over `resource`.

    Returns the store and the full name of the participant service.
    """
    store = open_store(runtime, {**own_schema(runtime.config.service), **sqlite_branches.schema()})
    metrics = PrometheusParticipantMetrics(runtime.registry)
    crashes = crash_point()
    participant = Participant(
        store=store,
        branches=sqlite_branches.SqliteBranchTable(),
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
