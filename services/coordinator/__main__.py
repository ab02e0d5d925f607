"""`python -m services.coordinator`: the coordinator of two-phase commit.

With `list`, `explain` or `resolve` it asks one that runs, see cli.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from google.protobuf.message import Message
from tallystick.txn.v1 import coordinator_service_pb2_grpc

from discovery import NAMESPACE
from services.coordinator import cli
from services.coordinator.asking import SERVICE, GrpcAsking
from services.coordinator.peers import Peers
from services.failpoints import crash_point
from services.housekeeping import log_keeper_config
from services.operations import PAY_TRADE, TRANSFER
from services.runtime import CannotStart, Runtime, main
from services.store import open_store
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.ids import new_id_after
from txn.log_keeper import LogKeeper
from txn.metrics_prometheus import PrometheusCoordinatorMetrics
from txn.resource import Codec
from txn.rpc import CoordinatorServicer, GrpcParticipantTransport
from txn.store import postgres_verify, sql_log
from txn.store.log_mark import LogMark
from txn.store.sqlite import take_ownership
from txn.store.sqlite_verify import verify

# Whether what begins with a single branch takes one phase: 1, which is usual, or 0.
ONE_PHASE = "TALLYSTICK_ONE_PHASE"

# Who may be named in a branch: a coordinator does not call whatever a caller names. That it
# knows their operations lets it refuse a malformed one before anything is begun, and lets
# reflection show them, so that grpcurl can write them as JSON.
OPERATIONS: Mapping[str, Codec[Message]] = {
    "order": PAY_TRADE,
    "ledger": TRANSFER,
}


def takes_one_phase(variables: Mapping[str, str]) -> bool:
    """What ONE_PHASE says. Raises CannotStart when it says neither."""
    said = variables.get(ONE_PHASE, "1")
    if said not in ("0", "1"):
        raise CannotStart(f"{ONE_PHASE} is neither 0 nor 1")
    return said == "1"


async def setup(runtime: Runtime) -> tuple[str, ...]:
    """CoordinatorService; refuses to start beside a coordinator of another log."""
    service = runtime.config.service
    await _take_address(runtime)
    log = await (_log_on_postgres if runtime.config.postgres else _log_on_sqlite)(runtime)
    transport = GrpcParticipantTransport(runtime.channel, service)
    runtime.on_stop(transport.close)
    for participant in OPERATIONS:
        # Looked up now, and not when it is first needed: the registry may be away then.
        runtime.channel(participant)
    metrics = PrometheusCoordinatorMetrics(runtime.registry)
    crashes = crash_point()
    coordinator = Coordinator(
        config=CoordinatorConfig(
            name=service,
            participants=frozenset(OPERATIONS),
            one_phase=takes_one_phase(os.environ),
            instance=runtime.config.advertised,
        ),
        log=log,
        transport=transport,
        clock=runtime.clock,
        rng=runtime.rng,
        new_txn_id=new_id_after,
        crash_point=crashes,
        metrics=metrics,
    )
    servicer = CoordinatorServicer(coordinator, OPERATIONS, runtime.channel)
    coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, runtime.server)

    peers = Peers(
        coordinator,
        GrpcAsking(),
        runtime.resolver,
        f"{NAMESPACE}/{service}",
        address=runtime.config.advertised,
        clock=runtime.clock,
    )
    await peers.admit(await coordinator.identify())
    await coordinator.start()
    runtime.spawn(peers.run())
    keeper = LogKeeper(
        log,
        clock=runtime.clock,
        rng=runtime.rng,
        config=log_keeper_config(os.environ),
        crash_point=crashes,
        metrics=metrics,
    )
    runtime.spawn(keeper.run())
    runtime.on_drain(servicer.drain)
    runtime.on_drain(coordinator.close)
    return (SERVICE,)


async def _take_address(runtime: Runtime) -> None:
    """Who begins under an address fences whoever was there: so it has to be free."""
    advertised = runtime.config.advertised
    if advertised != runtime.config.address and await GrpcAsking().lives(advertised):
        raise CannotStart(f"{advertised} is taken by another process")
    runtime.bind()


async def _log_on_sqlite(runtime: Runtime) -> sql_log.SqlDecisionLog:
    path = runtime.config.data / f"{runtime.config.service}.db"
    owner = take_ownership(path, shared=True)
    mark = LogMark(path, str(runtime.config.replica))

    async def disown() -> None:
        mark.close()
        os.close(owner)

    # Before the store is opened, so that it is let go of after the store is closed.
    runtime.on_stop(disown)
    verify(path)
    return sql_log.SqlDecisionLog(await open_store(runtime, sql_log.schema), runtime.clock, mark)


async def _log_on_postgres(runtime: Runtime) -> sql_log.SqlDecisionLog:
    runtime.config.data.mkdir(parents=True, exist_ok=True)
    path = runtime.config.data / f"{runtime.config.service}.postgres"
    mark = LogMark(path, str(runtime.config.replica))

    async def close_mark() -> None:
        mark.close()

    runtime.on_stop(close_mark)
    store = await open_store(runtime, sql_log.schema, owner=True)
    await postgres_verify.verify(store, path)
    return sql_log.SqlDecisionLog(store, runtime.clock, mark)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in cli.COMMANDS:
        sys.exit(cli.main(sys.argv[1:]))
    main("coordinator", setup)
