"""Several coordinators of one mesh, for tests: who stands, what each has decided."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from tallystick.txn.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc

from services.runtime import LEASE_TTL_S
from tests.support.books import unfinished
from tests.support.mesh import (
    Mesh,
    ServiceProcess,
    Shop,
)
from tests.support.waiting import eventually
from txn.model import epoch_of

KILLED = -9
PAYERS = 4
FEW = 12
RECOVER_WITHIN_S = 30.0
# From a kill until all of what the victim had begun is final.
FINAL_WITHIN_S = LEASE_TTL_S + 3.0
# Who stands still is silent, and is not refused: that takes a little longer to notice.
TAKEN_OVER_WITHIN_S = LEASE_TTL_S + 5.0
COMMITTED = coordinator_service_pb2.OUTCOME_COMMITTED
PENDING = coordinator_service_pb2.OUTCOME_PENDING


async def launched(mesh: Mesh, coordinator: ServiceProcess, failpoint: str = "") -> None:
    """Started, serving, and known to whoever looks into the registry."""
    coordinator.launch(failpoint)
    await coordinator.serving()
    await eventually(lambda: coordinator.address in registered(mesh), what="a registration")


def registered(mesh: Mesh) -> set[str]:
    """The addresses of the coordinators in the registry."""
    return {key.rpartition("/")[2] for key in mesh.etcd.entries("tallystick/coordinator/")}


def standing(mesh: Mesh) -> dict[str, int]:
    """The epochs that are not over, by the addresses of their coordinators."""
    rows = mesh.rows("coordinator", "SELECT instance, epoch FROM epoch WHERE successor IS NULL")
    return {str(instance): int(epoch) for instance, epoch in rows}


def committed_in(mesh: Mesh, epoch: int, *outcomes: str) -> set[str]:
    """What was begun in an epoch and has committed, or has one of those `outcomes`."""
    rows = mesh.rows("coordinator", "SELECT txn_id, outcome FROM decision")
    wanted = ("COMMITTED", *outcomes)
    return {txn_id for txn_id, outcome in rows if outcome in wanted and epoch_of(txn_id) == epoch}


def unfinished_of(mesh: Mesh, epoch: int) -> list[tuple[object, ...]]:
    """What was begun in an epoch and is not final, in whichever book."""
    open_rows = mesh.rows("coordinator", "SELECT 'open', txn_id FROM decision WHERE ended = 0")
    return [row for row in [*unfinished(mesh), *open_rows] if epoch_of(str(row[1])) == epoch]


async def paid_by(mesh: Mesh, process: ServiceProcess) -> int:
    """Waits until a coordinator has committed something in its present epoch, and returns that."""

    def has() -> bool:
        epoch = standing(mesh).get(process.address)
        return epoch is not None and committed_in(mesh, epoch) != set()

    await eventually(has, timeout_s=RECOVER_WITHIN_S, what="a payment by each")
    return standing(mesh)[process.address]


def measured(text: str) -> None:
    """Says what was measured, to who runs a test with -s."""
    print(text)  # noqa: T201 - as said


async def shops(mesh: Mesh) -> list[Shop]:
    """Some payers and their merchants."""
    return [await Shop(mesh).open() for _ in range(PAYERS)]


@asynccontextmanager
async def direct(
    *processes: ServiceProcess,
) -> AsyncIterator[list[coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub]]:
    """A stub to each coordinator itself, past the balancer."""
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(each.address))
            for each in processes
        ]
        yield [coordinator_service_pb2_grpc.CoordinatorServiceStub(each) for each in channels]
