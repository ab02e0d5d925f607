"""CoordinatorService: the servicer, and a participant's transport to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import grpc
from google.protobuf import timestamp_pb2
from tallystick.txn.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc

from txn.coordinator import Coordinator
from txn.errors import InvalidOperation, Unreachable
from txn.model import Branch, BranchId, BranchKey, TxnId
from txn.participant import Codec
from txn.rpc.attempt import attempt
from txn.rpc.operation import check_size, operation_from
from txn.rpc.page import page_limit
from txn.rpc.status import Context, or_abort
from txn.state import Outcome, TransactionState
from txn.transaction import Result, View

# Execute answers PENDING this long before the caller stops listening.
EXECUTE_MARGIN_S = 0.25
EXECUTE_WAIT_MAX_S = 30.0
# Until callers are authenticated they share one space of idempotency keys.
ANONYMOUS_CALLER = "anonymous"

_OUTCOMES_OUT = {
    Outcome.COMMITTED: coordinator_service_pb2.OUTCOME_COMMITTED,
    Outcome.ABORTED: coordinator_service_pb2.OUTCOME_ABORTED,
    Outcome.PENDING: coordinator_service_pb2.OUTCOME_PENDING,
}
_OUTCOMES_IN = {wire: outcome for outcome, wire in _OUTCOMES_OUT.items()}
_STATES_OUT = {
    TransactionState.PREPARING: coordinator_service_pb2.TRANSACTION_STATE_PREPARING,
    TransactionState.DECIDING: coordinator_service_pb2.TRANSACTION_STATE_DECIDING,
    TransactionState.COMMITTING: coordinator_service_pb2.TRANSACTION_STATE_COMMITTING,
    TransactionState.ABORTING: coordinator_service_pb2.TRANSACTION_STATE_ABORTING,
    TransactionState.COMMITTED: coordinator_service_pb2.TRANSACTION_STATE_COMMITTED,
    TransactionState.ABORTED: coordinator_service_pb2.TRANSACTION_STATE_ABORTED,
}


class GrpcCoordinatorTransport:
    """CoordinatorTransport over channels by coordinator name."""

    def __init__(self, channel_for: Callable[[str], grpc.aio.Channel]) -> None:
        self._channel_for = channel_for

    async def inquire(self, coordinator: str, key: BranchKey, timeout_s: float) -> Outcome:
        """See CoordinatorTransport.inquire."""
        stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = (
            coordinator_service_pb2_grpc.CoordinatorServiceStub(self._channel_for(coordinator))
        )
        request = coordinator_service_pb2.InquireRequest(txn_id=key.txn_id, branch_id=key.branch_id)
        try:
            reply = await attempt(lambda: stub.Inquire(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise Unreachable(error.code().name) from error
        return _OUTCOMES_IN.get(reply.outcome, Outcome.PENDING)


class CoordinatorServicer(coordinator_service_pb2_grpc.CoordinatorServiceServicer):
    """CoordinatorService over a Coordinator."""

    def __init__(
        self, coordinator: Coordinator, operations: Mapping[str, Codec[object]] | None = None
    ) -> None:
        """`operations`, by participant, are checked before anything is begun.

        Those of other participants are left to their participants, up to their size.
        """
        self._coordinator = coordinator
        self._operations = operations or {}

    async def Execute(  # noqa: N802
        self, request: coordinator_service_pb2.ExecuteRequest, context: Context
    ) -> coordinator_service_pb2.ExecuteResponse:
        """See the proto."""
        left_s: float | None = context.time_remaining()
        wait_s = EXECUTE_WAIT_MAX_S if left_s is None else left_s - EXECUTE_MARGIN_S
        result = await or_abort(
            context, self._execute(request, max(0.0, min(wait_s, EXECUTE_WAIT_MAX_S)))
        )
        return coordinator_service_pb2.ExecuteResponse(
            txn_id=result.txn_id,
            outcome=_OUTCOMES_OUT[result.outcome],
            reason=result.reason,
            refused_branch_id=result.refused_branch_id,
        )

    async def _execute(
        self, request: coordinator_service_pb2.ExecuteRequest, wait_s: float
    ) -> Result:
        branches = [
            Branch(BranchId(b.branch_id), b.participant, operation_from(b.operation))
            for b in request.branches
        ]
        self._check_operations(branches)
        return await self._coordinator.execute(
            caller=ANONYMOUS_CALLER,
            idempotency_key=request.idempotency_key,
            branches=branches,
            wait_s=wait_s,
            wait_for_applied=request.wait_for != coordinator_service_pb2.WAIT_FOR_DECIDED,
        )

    def _check_operations(self, branches: Sequence[Branch]) -> None:
        violations = []
        for index, branch in enumerate(branches):
            try:
                check_size(branch.operation)
                if (codec := self._operations.get(branch.participant)) is not None:
                    codec.decode(branch.operation)
            except InvalidOperation as invalid:
                violations += [v.inside(f"branches[{index}]") for v in invalid.violations]
        if violations:
            raise InvalidOperation(violations)

    async def GetTransaction(  # noqa: N802
        self, request: coordinator_service_pb2.GetTransactionRequest, context: Context
    ) -> coordinator_service_pb2.GetTransactionResponse:
        """See the proto."""
        if request.WhichOneof("name") == "txn_id":
            found = self._coordinator.get(TxnId(request.txn_id))
        else:
            found = self._coordinator.get_by_key(ANONYMOUS_CALLER, request.idempotency_key)
        view = await or_abort(context, found)
        return coordinator_service_pb2.GetTransactionResponse(transaction=_view_out(view))

    async def ListTransactions(  # noqa: N802
        self, request: coordinator_service_pb2.ListTransactionsRequest, context: Context
    ) -> coordinator_service_pb2.ListTransactionsResponse:
        """See the proto."""
        limit = page_limit(request.page_size)
        views = await or_abort(
            context,
            self._coordinator.list_transactions(
                after=request.page_token, limit=limit, unfinished_only=request.unfinished_only
            ),
        )
        return coordinator_service_pb2.ListTransactionsResponse(
            transactions=[_view_out(view) for view in views],
            next_page_token=views[-1].txn_id if len(views) == limit else "",
        )

    async def Inquire(  # noqa: N802
        self, request: coordinator_service_pb2.InquireRequest, context: Context
    ) -> coordinator_service_pb2.InquireResponse:
        """See the proto."""
        outcome = await or_abort(context, self._coordinator.inquire(TxnId(request.txn_id)))
        return coordinator_service_pb2.InquireResponse(
            txn_id=request.txn_id, outcome=_OUTCOMES_OUT[outcome]
        )


def _view_out(view: View) -> coordinator_service_pb2.Transaction:
    decided = timestamp_pb2.Timestamp()
    if view.decided_at_us is not None:
        decided.FromMicroseconds(view.decided_at_us)
    return coordinator_service_pb2.Transaction(
        txn_id=view.txn_id,
        idempotency_key=view.idempotency_key,
        state=_STATES_OUT[view.state],
        outcome=_OUTCOMES_OUT[view.outcome],
        reason=view.reason,
        branches=[
            coordinator_service_pb2.TransactionBranch(
                branch_id=branch.branch_id, participant=branch.participant
            )
            for branch in view.branches
        ],
        decision_time=None if view.decided_at_us is None else decided,
    )
