"""ParticipantService: the servicer, and the coordinator's transport to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import grpc
from google.protobuf import timestamp_pb2
from tallystick.txn.v1 import participant_service_pb2, participant_service_pb2_grpc

from txn.errors import (
    Alarm,
    BranchAborted,
    BranchCommitted,
    Busy,
    Refused,
    ResourceFailed,
    UnknownBranch,
    Unreachable,
)
from txn.model import BranchId, BranchKey, BranchRow, Prepare, TxnId, VoteReply
from txn.participant import Participant
from txn.rpc.attempt import attempt
from txn.rpc.operation import any_from, operation_from
from txn.rpc.page import page_limit
from txn.rpc.status import Context, or_abort, reason_of
from txn.state import BranchState, Vote

_VOTES_OUT = {
    Vote.COMMIT: participant_service_pb2.VOTE_COMMIT,
    Vote.ABORT: participant_service_pb2.VOTE_ABORT,
    Vote.READ_ONLY: participant_service_pb2.VOTE_READ_ONLY,
}
_VOTES_IN = {wire: vote for vote, wire in _VOTES_OUT.items()}
_STATES_OUT = {
    BranchState.PREPARED: participant_service_pb2.BRANCH_STATE_PREPARED,
    BranchState.COMMITTED: participant_service_pb2.BRANCH_STATE_COMMITTED,
    BranchState.ABORTED: participant_service_pb2.BRANCH_STATE_ABORTED,
}
_STATES_IN = {wire: state for state, wire in _STATES_OUT.items()}
_ALARMS: dict[str, type[Alarm]] = {
    "UNKNOWN_BRANCH": UnknownBranch,
    "BRANCH_ABORTED": BranchAborted,
    "BRANCH_COMMITTED": BranchCommitted,
    "RESOURCE_FAILED": ResourceFailed,
}
# A participant that answers prepare with one of these has understood and said no.
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class GrpcParticipantTransport:
    """ParticipantTransport over channels by participant name."""

    def __init__(self, channel_for: Callable[[str], grpc.aio.Channel]) -> None:
        self._channel_for = channel_for

    async def prepare(self, participant: str, message: Prepare, timeout_s: float) -> VoteReply:
        """See ParticipantTransport.prepare."""
        request = participant_service_pb2.PrepareRequest(
            txn_id=message.key.txn_id,
            branch_id=message.key.branch_id,
            coordinator=message.coordinator,
            operation=any_from(message.operation),
        )
        try:
            stub = self._stub(participant)
            reply = await attempt(lambda: stub.Prepare(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ABORTED:
                raise Busy(reason_of(error) or "BUSY") from error
            if error.code() in _REFUSALS:
                raise Refused(reason_of(error) or error.code().name) from error
            raise Unreachable(error.code().name) from error
        vote = _VOTES_IN.get(reply.vote)
        if vote is None:
            raise Refused("UNKNOWN_VOTE")
        return VoteReply(vote, reply.reason)

    async def commit(self, participant: str, key: BranchKey, timeout_s: float) -> None:
        """See ParticipantTransport.commit."""
        request = participant_service_pb2.CommitRequest(txn_id=key.txn_id, branch_id=key.branch_id)
        try:
            stub = self._stub(participant)
            await attempt(lambda: stub.Commit(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            _raise_phase_two(error)

    async def abort(self, participant: str, key: BranchKey, timeout_s: float) -> None:
        """See ParticipantTransport.abort."""
        request = participant_service_pb2.AbortRequest(txn_id=key.txn_id, branch_id=key.branch_id)
        try:
            stub = self._stub(participant)
            await attempt(lambda: stub.Abort(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            _raise_phase_two(error)

    def _stub(self, participant: str) -> participant_service_pb2_grpc.ParticipantServiceAsyncStub:
        return participant_service_pb2_grpc.ParticipantServiceStub(self._channel_for(participant))


def _raise_phase_two(error: grpc.aio.AioRpcError) -> NoReturn:
    alarm = _ALARMS.get(reason_of(error))
    if alarm is not None:
        raise alarm(error.details()) from error
    raise Unreachable(error.code().name) from error


class ParticipantServicer(participant_service_pb2_grpc.ParticipantServiceServicer):
    """ParticipantService over a Participant."""

    def __init__(self, participant: Participant[Any, Any]) -> None:
        self._participant = participant

    async def Prepare(  # noqa: N802
        self, request: participant_service_pb2.PrepareRequest, context: Context
    ) -> participant_service_pb2.PrepareResponse:
        """See the proto."""
        message = Prepare(_key(request), request.coordinator, operation_from(request.operation))
        reply = await or_abort(context, self._participant.prepare(message))
        return participant_service_pb2.PrepareResponse(
            txn_id=request.txn_id,
            branch_id=request.branch_id,
            vote=_VOTES_OUT[reply.vote],
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
