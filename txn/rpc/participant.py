"""ParticipantService over a participant, of whatever kind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeAlias, cast

import grpc
from google.protobuf import timestamp_pb2
from tallystick.txn.v1 import participant_service_pb2, participant_service_pb2_grpc

from txn.model import (
    Abort,
    Batch,
    BranchId,
    BranchKey,
    BranchRow,
    Commit,
    Operation,
    Perform,
    Prepare,
    Resolve,
    TxnId,
)
from txn.participant_kind import ParticipantKind
from txn.rpc.operation import operation_from
from txn.rpc.page import page_limit
from txn.rpc.quick import surely_valid_exchange
from txn.rpc.replies import VOTES_OUT, replies_out
from txn.rpc.status import Context, abort_with, invalid_request, or_abort
from txn.rpc.streams import StreamTasks
from txn.state import BranchState

# Of one stream, at once; then it is not read any further.
EXCHANGE_BATCHES_MAX = 64

_STATES_OUT = {
    BranchState.PREPARED: participant_service_pb2.BRANCH_STATE_PREPARED,
    BranchState.COMMITTED: participant_service_pb2.BRANCH_STATE_COMMITTED,
    BranchState.ABORTED: participant_service_pb2.BRANCH_STATE_ABORTED,
}
_STATES_IN = {wire: state for state, wire in _STATES_OUT.items()}
_StreamContext: TypeAlias = (
    "grpc.aio.ServicerContext[participant_service_pb2.ExchangeRequest, "
    "participant_service_pb2.ExchangeResponse]"
)


class ParticipantServicer(participant_service_pb2_grpc.ParticipantServiceServicer):
    """See the proto for every method."""

    def __init__(self, participant: ParticipantKind) -> None:
        self._participant = participant
        self._streams = StreamTasks()

    async def drain(self, grace_s: float) -> None:
        """Ends the streams, when what they have brought is answered; new calls still come."""
        await self._streams.drain(grace_s)

    async def Prepare(  # noqa: N802
        self, request: participant_service_pb2.PrepareRequest, context: Context
    ) -> participant_service_pb2.PrepareResponse:
        """See the proto."""
        message = Prepare(_key(request), request.coordinator, operation_from(request.operation))
        reply = await or_abort(context, self._participant.prepare(message))
        return participant_service_pb2.PrepareResponse(
            txn_id=request.txn_id,
            branch_id=request.branch_id,
            vote=VOTES_OUT[reply.vote],
            reason=reply.reason,
        )

    async def Commit(  # noqa: N802
        self, request: participant_service_pb2.CommitRequest, context: Context
    ) -> participant_service_pb2.CommitResponse:
        """See the proto."""
        await or_abort(context, self._participant.commit(_key(request)))
        return participant_service_pb2.CommitResponse(
            txn_id=request.txn_id, branch_id=request.branch_id
        )

    async def Abort(  # noqa: N802
        self, request: participant_service_pb2.AbortRequest, context: Context
    ) -> participant_service_pb2.AbortResponse:
        """See the proto."""
        await or_abort(context, self._participant.abort(_key(request)))
        return participant_service_pb2.AbortResponse(
            txn_id=request.txn_id, branch_id=request.branch_id
        )

    async def Exchange(  # type: ignore[override] # noqa: N802
        self,
        request_iterator: object,
        context: _StreamContext,
    ) -> None:
        """See the proto."""
        del request_iterator
        writing = asyncio.Lock()

        async def answer(request: participant_service_pb2.ExchangeRequest) -> None:
            replies = await self._participant.exchange(batch_from(request))
            async with writing:
                await context.write(replies_out(replies, request.batch_id))

        bad = await self._streams.serve(
            context, answer, EXCHANGE_BATCHES_MAX, surely_valid_exchange
        )
        if bad is not None:
            await abort_with(context, invalid_request(bad))

    async def GetBranch(  # noqa: N802
        self, request: participant_service_pb2.GetBranchRequest, context: Context
    ) -> participant_service_pb2.GetBranchResponse:
        """See the proto."""
        row = await or_abort(context, self._participant.get(_key(request)))
        return participant_service_pb2.GetBranchResponse(branch=_branch_out(row))

    async def ListBranches(  # noqa: N802
        self, request: participant_service_pb2.ListBranchesRequest, context: Context
    ) -> participant_service_pb2.ListBranchesResponse:
        """See the proto."""
        limit = page_limit(request.page_size)
        txn_id, _, branch_id = request.page_token.partition("/")
        after = BranchKey(TxnId(txn_id), BranchId(branch_id)) if request.page_token else None
        rows = await or_abort(
            context,
            self._participant.list_branches(
                after=after, limit=limit, state=_STATES_IN.get(request.state)
            ),
        )
        full = len(rows) == limit
        return participant_service_pb2.ListBranchesResponse(
            branches=[_branch_out(row) for row in rows],
            next_page_token=f"{rows[-1].key.txn_id}/{rows[-1].key.branch_id}" if full else "",
        )


def batch_from(request: participant_service_pb2.ExchangeRequest) -> Batch:
    """The engine's view of a batch that breaks no rule."""
    coordinator = request.coordinator
    urls = list(request.operation_type_urls)
    operations = (
        Operation(urls[type_], value)
        for type_, value in zip(request.operation_types, request.operations, strict=True)
    )
    keys = _keys(request.txn_ids, request.branch_ids)
    return Batch(
        [
            Prepare(key, coordinator, next(operations))
            if verb == participant_service_pb2.VERB_PREPARE
            else Commit(key)
            if verb == participant_service_pb2.VERB_COMMIT
            else Abort(key)
            if verb == participant_service_pb2.VERB_ABORT
            else Perform(key, coordinator, next(operations))
            if verb == participant_service_pb2.VERB_PERFORM
            else Resolve(key)
            for verb, key in zip(request.verbs, keys, strict=True)
        ],
        list(_keys(request.forgettable_txn_ids, request.forgettable_branch_ids)),
        TxnId(request.prepare_horizon) if request.prepare_horizon else None,
    )


def _keys(txn_ids: Iterable[str], branch_ids: Iterable[str]) -> Iterable[BranchKey]:
    return map(BranchKey, cast("Iterable[TxnId]", txn_ids), cast("Iterable[BranchId]", branch_ids))


def _key(
    request: participant_service_pb2.PrepareRequest
    | participant_service_pb2.CommitRequest
    | participant_service_pb2.AbortRequest
    | participant_service_pb2.GetBranchRequest,
) -> BranchKey:
    return BranchKey(TxnId(request.txn_id), BranchId(request.branch_id))


def _branch_out(row: BranchRow) -> participant_service_pb2.ParticipantBranch:
    prepared = timestamp_pb2.Timestamp()
    prepared.FromMicroseconds(row.prepared_at_us)
    return participant_service_pb2.ParticipantBranch(
        txn_id=row.key.txn_id,
        branch_id=row.key.branch_id,
        coordinator=row.coordinator,
        state=_STATES_OUT[row.state],
        operation_type="" if row.operation is None else row.operation.type_url,
        prepare_time=prepared,
    )
