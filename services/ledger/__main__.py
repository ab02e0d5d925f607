"""`python -m services.ledger`: one replica of the ledger."""

from __future__ import annotations

from tallystick.ledger.v1 import ledger_service_pb2, ledger_service_pb2_grpc

from services.ledger.service import LedgerServicer
from services.ledger.transfer import TransferResource
from services.operations import TRANSFER
from services.runtime import Runtime, main
from services.store import open_participant


async def setup(runtime: Runtime) -> tuple[str, ...]:
    """LedgerService, and the participant "ledger"."""
    store, participant = await open_participant(runtime, TransferResource(runtime.clock), TRANSFER)
    ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(
        LedgerServicer(store, runtime.clock), runtime.server
    )
    service = ledger_service_pb2.DESCRIPTOR.services_by_name["LedgerService"]
    return service.full_name, participant


if __name__ == "__main__":
    main("ledger", setup)
