"""The public names of txn and of its edge to gRPC."""

from __future__ import annotations

import txn
import txn.rpc


def test_the_public_names_are_these() -> None:
    """Whoever adds or removes a public name does so on purpose."""
    assert sorted(txn.__all__) == [
        "Backoff",
        "BatchResource",
        "Branch",
        "BranchId",
        "BranchKey",
        "BranchState",
        "Busy",
        "Clock",
        "Coordinator",
        "CoordinatorConfig",
        "Forgetter",
        "ForgetterConfig",
        "Inquirer",
        "InquiryConfig",
        "Item",
        "LogKeeper",
        "LogKeeperConfig",
        "Operation",
        "Outcome",
        "OutcomeUnknown",
        "Participant",
        "Refused",
        "Request",
        "Resource",
        "Result",
        "SystemClock",
        "TransactionAborted",
        "TransactionState",
        "TxnError",
        "TxnId",
        "View",
        "Vote",
    ]
    assert sorted(txn.rpc.__all__) == [
        "Committed",
        "Context",
        "CoordinatorServicer",
        "GrpcCoordinatorTransport",
        "GrpcParticipantTransport",
        "OPERATION_SIZE_MAX_BYTES",
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


def test_every_public_name_is_there() -> None:
    """__all__ promises nothing that is missing."""
    for module in (txn, txn.rpc):
        assert [name for name in module.__all__ if not hasattr(module, name)] == []
