"""CoordinatorService: the servicer, and a participant's transport to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import grpc
from google.protobuf import duration_pb2, timestamp_pb2
from tallystick.txn.v1 import (
    coordinator_service_pb2,
    coordinator_service_pb2_grpc,
    participant_service_pb2,
)

from txn.clock import US_PER_S
from txn.coordinator import Coordinator
from txn.errors import InvalidOperation, TxnError, Unreachable
from txn.model import Branch, BranchId, BranchKey, Ended, TxnId
from txn.resource import Codec
from txn.rpc.attempt import attempt
from txn.rpc.execute_door import (
    EXECUTE_MARGIN_S,
    EXECUTE_MESSAGES_MAX,
    EXECUTE_WAIT_MAX_S,
    ExecuteDoor,
    StreamContext,
)
from txn.rpc.operation import check_size, operation_from
from txn.rpc.operators import OperatorDesk, entries_out
from txn.rpc.page import page_limit
from txn.rpc.quick import surely_valid_execute_stream
from txn.rpc.replies import VOTES_OUT
from txn.rpc.status import Context, abort_with, invalid_request, or_abort, status_of, violations_of
from txn.rpc.streams import StreamTasks
from txn.state import Outcome, TransactionState
from txn.transaction import Request, Result, View

# Until callers are authenticated they share one space of idempotency keys.
ANONYMOUS_CALLER = "anonymous"

_OUTCOMES_OUT = {
    Outcome.COMMITTED: coordinator_service_pb2.OUTCOME_COMMITTED,
    Outcome.ABORTED: coordinator_service_pb2.OUTCOME_ABORTED,
    Outcome.PENDING: coordinator_service_pb2.OUTCOME_PENDING,
}
OUTCOMES_IN = {wire: outcome for outcome, wire in _OUTCOMES_OUT.items()}
_STATES_OUT = {
    TransactionState.PREPARING: coordinator_service_pb2.TRANSACTION_STATE_PREPARING,
    TransactionState.DECIDING: coordinator_service_pb2.TRANSACTION_STATE_DECIDING,
    TransactionState.COMMITTING: coordinator_service_pb2.TRANSACTION_STATE_COMMITTING,
    TransactionState.ABORTING: coordinator_service_pb2.TRANSACTION_STATE_ABORTING,
    TransactionState.COMMITTED: coordinator_service_pb2.TRANSACTION_STATE_COMMITTED,
    TransactionState.ABORTED: coordinator_service_pb2.TRANSACTION_STATE_ABORTED,
    TransactionState.CLAIMING: coordinator_service_pb2.TRANSACTION_STATE_CLAIMING,
    TransactionState.PERFORMING: coordinator_service_pb2.TRANSACTION_STATE_PERFORMING,
    TransactionState.RESOLVING: coordinator_service_pb2.TRANSACTION_STATE_RESOLVING,
}


class GrpcCoordinatorTransport:
    """CoordinatorTransport and EndedTransport over channels by coordinator name."""

    def __init__(self, channel_for: Callable[[str], grpc.aio.Channel]) -> None:
        self._channel_for = channel_for

    async def inquire(
        self, coordinator: str, keys: Sequence[BranchKey], timeout_s: float
    ) -> Sequence[Outcome]:
        """See CoordinatorTransport.inquire."""
        stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = (
            coordinator_service_pb2_grpc.CoordinatorServiceStub(self._channel_for(coordinator))
        )
        request = coordinator_service_pb2.BatchInquireRequest()
        for txn_id, branch_id in keys:
            request.inquiries.add(txn_id=txn_id, branch_id=branch_id)
        try:
            reply = await attempt(lambda: stub.BatchInquire(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise Unreachable(error.code().name) from error
        if len(reply.answers) != len(keys):
            raise Unreachable("ANSWERS_MISSING")
        return [OUTCOMES_IN.get(each.outcome, Outcome.PENDING) for each in reply.answers]

    async def ended(self, coordinator: str, txn_ids: Sequence[TxnId], timeout_s: float) -> Ended:
        """See EndedTransport.ended."""
        stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = (
            coordinator_service_pb2_grpc.CoordinatorServiceStub(self._channel_for(coordinator))
        )
        request = coordinator_service_pb2.FilterEndedRequest(txn_ids=txn_ids)
        try:
            reply = await attempt(lambda: stub.FilterEnded(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise Unreachable(error.code().name) from error
        if violations_of(reply):
            # A horizon is written down for ever.
            raise Unreachable("REPLY_BREAKS_A_RULE")
        return Ended(
            frozenset(TxnId(each) for each in reply.ended_txn_ids),
            TxnId(reply.prepare_horizon) if reply.prepare_horizon else None,
        )


class CoordinatorServicer(coordinator_service_pb2_grpc.CoordinatorServiceServicer):
    """CoordinatorService over a Coordinator."""

    def __init__(
        self,
        coordinator: Coordinator,
        operations: Mapping[str, Codec[object]] | None = None,
        channel_for: Callable[[str], grpc.aio.Channel] | None = None,
    ) -> None:
        """`operations`, by participant, are checked before anything is begun.

        Those of other participants are left to their participants, up to their size. Over
        `channel_for` participants are asked what they remember, for ExplainTransaction.
        """
        self._coordinator = coordinator
        self._desk = OperatorDesk(coordinator, channel_for)
        self._operations = operations or {}
        self._streams = StreamTasks()

    async def drain(self, grace_s: float) -> None:
        """Ends the streams, when what they have brought is answered; new calls still come."""
        await self._streams.drain(grace_s)

    async def Execute(  # noqa: N802
        self, request: coordinator_service_pb2.ExecuteRequest, context: Context
    ) -> coordinator_service_pb2.ExecuteResponse:
        """See the proto."""
        left_s: float | None = context.time_remaining()
        wait_s = EXECUTE_WAIT_MAX_S if left_s is None else left_s - EXECUTE_MARGIN_S
        result = await or_abort(
            context, self._execute(request, max(0.0, min(wait_s, EXECUTE_WAIT_MAX_S)))
        )
        response = coordinator_service_pb2.ExecuteResponse()
        write_response(result, response)
        return response

    async def ExecuteStream(  # type: ignore[override] # noqa: N802
        self, request_iterator: object, context: StreamContext
    ) -> None:
        """See the proto."""
        del request_iterator
        door = ExecuteDoor(self._coordinator, self.request_in, context, write_response)
        try:
            bad = await self._streams.serve(
                context, door.answer, EXECUTE_MESSAGES_MAX, surely_valid_execute_stream
            )
        finally:
            await door.close()
        if bad is not None:
            await abort_with(context, invalid_request(bad))

    def request_in(self, request: coordinator_service_pb2.ExecuteRequest) -> Request:
        """What a caller asks for. Raises InvalidOperation."""
        branches = [
            Branch(BranchId(b.branch_id), b.participant, operation_from(b.operation))
            for b in request.branches
        ]
        self._check_operations(branches)
        return Request(
            ANONYMOUS_CALLER,
            request.idempotency_key,
            branches,
            request.wait_for != coordinator_service_pb2.WAIT_FOR_DECIDED,
        )

    async def _execute(
        self, request: coordinator_service_pb2.ExecuteRequest, wait_s: float
    ) -> Result:
        asked = self.request_in(request)
        return await self._coordinator.execute(
            caller=asked.caller,
            idempotency_key=asked.idempotency_key,
            branches=asked.branches,
            wait_s=wait_s,
            wait_for_applied=asked.wait_for_applied,
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
        view = await or_abort(context, self._found(request))
        return coordinator_service_pb2.GetTransactionResponse(transaction=_view_out(view))

    async def _found(
        self,
        request: coordinator_service_pb2.GetTransactionRequest
        | coordinator_service_pb2.ExplainTransactionRequest,
    ) -> View:
        if request.WhichOneof("name") == "txn_id":
            return await self._coordinator.get(TxnId(request.txn_id))
        return await self._coordinator.get_by_key(ANONYMOUS_CALLER, request.idempotency_key)

    async def ExplainTransaction(  # noqa: N802
        self, request: coordinator_service_pb2.ExplainTransactionRequest, context: Context
    ) -> coordinator_service_pb2.ExplainTransactionResponse:
        """See the proto."""
        txn_id = TxnId(request.txn_id)
        if request.WhichOneof("name") != "txn_id":
            txn_id = (await or_abort(context, self._found(request))).txn_id
        known = await or_abort(context, self._desk.explain(txn_id))
        return coordinator_service_pb2.ExplainTransactionResponse(
            txn_id=txn_id,
            transaction=None if known.view is None else _view_out(known.view),
            entries=entries_out(known.entries),
            gaps=known.gaps,
        )

    async def ResolveTransaction(  # noqa: N802
        self, request: coordinator_service_pb2.ResolveTransactionRequest, context: Context
    ) -> coordinator_service_pb2.ResolveTransactionResponse:
        """See the proto."""
        return await or_abort(context, self._desk.resolve(request))

    async def ListAuditRecords(  # noqa: N802
        self, request: coordinator_service_pb2.ListAuditRecordsRequest, context: Context
    ) -> coordinator_service_pb2.ListAuditRecordsResponse:
        """See the proto."""
        return await or_abort(context, self._desk.list_audit(request))

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
        (answer,) = await or_abort(context, self._coordinator.inquire([TxnId(request.txn_id)]))
        if isinstance(answer, TxnError):
            await abort_with(context, status_of(answer))
        return coordinator_service_pb2.InquireResponse(
            txn_id=request.txn_id, outcome=_OUTCOMES_OUT[answer]
        )

    async def BatchInquire(  # noqa: N802
        self, request: coordinator_service_pb2.BatchInquireRequest, context: Context
    ) -> coordinator_service_pb2.BatchInquireResponse:
        """See the proto."""
        txn_ids = [TxnId(each.txn_id) for each in request.inquiries]
        response = coordinator_service_pb2.BatchInquireResponse()
        answers = await or_abort(context, self._coordinator.inquire(txn_ids))
        for txn_id, answer in zip(txn_ids, answers, strict=True):
            outcome = Outcome.PENDING if isinstance(answer, TxnError) else answer
            response.answers.add(txn_id=txn_id, outcome=_OUTCOMES_OUT[outcome])
        return response

    async def GetCoordinator(  # noqa: N802
        self, request: coordinator_service_pb2.GetCoordinatorRequest, context: Context
    ) -> coordinator_service_pb2.GetCoordinatorResponse:
        """See the proto."""
        del request
        try:
            info = self._coordinator.info()
        except TxnError as error:
            await abort_with(context, status_of(error))
        return coordinator_service_pb2.GetCoordinatorResponse(
            log_id=info.log_id,
            epoch=info.epoch,
            instance=info.instance,
            active_transactions=info.active,
        )

    async def FilterEnded(  # noqa: N802
        self, request: coordinator_service_pb2.FilterEndedRequest, context: Context
    ) -> coordinator_service_pb2.FilterEndedResponse:
        """See the proto."""
        txn_ids = [TxnId(each) for each in request.txn_ids]
        ended = await or_abort(context, self._coordinator.ended(txn_ids))
        return coordinator_service_pb2.FilterEndedResponse(
            ended_txn_ids=sorted(ended.txn_ids), prepare_horizon=ended.prepare_horizon or ""
        )


def write_response(result: Result, out: coordinator_service_pb2.ExecuteResponse) -> None:
    """Writes what the caller is told of a result."""
    out.txn_id = result.txn_id
    out.outcome = _OUTCOMES_OUT[result.outcome]
    if result.reason:
        out.reason = result.reason
    if result.refused_branch_id:
        out.refused_branch_id = result.refused_branch_id


def _view_out(view: View) -> coordinator_service_pb2.Transaction:
    decided, age = timestamp_pb2.Timestamp(), duration_pb2.Duration()
    if view.decided_at_us is not None:
        decided.FromMicroseconds(view.decided_at_us)
    if view.age_s is not None:
        age.FromMicroseconds(round(view.age_s * US_PER_S))
    return coordinator_service_pb2.Transaction(
        txn_id=view.txn_id,
        idempotency_key=view.idempotency_key,
        state=_STATES_OUT[view.state],
        outcome=_OUTCOMES_OUT[view.outcome],
        reason=view.reason,
        branches=[
            coordinator_service_pb2.TransactionBranch(
                branch_id=branch.branch_id,
                participant=branch.participant,
                vote=participant_service_pb2.VOTE_UNSPECIFIED
                if branch.vote is None
                else VOTES_OUT[branch.vote],
                acknowledged=branch.acknowledged,
                attempts=branch.attempts,
                last_error=branch.last_error,
                alarmed=branch.alarmed,
            )
            for branch in view.branches
        ],
        decision_time=None if view.decided_at_us is None else decided,
        active=view.active,
        age=None if view.age_s is None else age,
    )
