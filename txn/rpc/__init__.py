"""The edge to gRPC: servicers over the engine, transports over channels, Any as operation.

The only part of this package that knows gRPC and protobuf. It receives channels and
opens none.
"""

from txn.rpc.client import Committed, TransactionClient, WaitFor, operation_of
from txn.rpc.coordinator import CoordinatorServicer, GrpcCoordinatorTransport
from txn.rpc.operation import OPERATION_SIZE_MAX_BYTES, OperationCodec
from txn.rpc.participant import ParticipantServicer
from txn.rpc.participant_transport import GrpcParticipantTransport
from txn.rpc.serving import (
    ServedBatchResource,
    ServedResource,
    serve_coordinator,
    serve_participant,
)
from txn.rpc.status import Context, abort_with, reason_of, rich_status, status_of, violations_of

__all__ = [
    "OPERATION_SIZE_MAX_BYTES",
    "Committed",
    "Context",
    "CoordinatorServicer",
    "GrpcCoordinatorTransport",
    "GrpcParticipantTransport",
    "OperationCodec",
    "ParticipantServicer",
    "ServedBatchResource",
    "ServedResource",
    "TransactionClient",
    "WaitFor",
    "abort_with",
    "operation_of",
    "reason_of",
    "rich_status",
    "serve_coordinator",
    "serve_participant",
    "status_of",
    "violations_of",
]
