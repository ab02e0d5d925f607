"""A participant's answers on the wire, and back: one way for unary calls and for batches."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from tallystick.txn.v1 import participant_service_pb2

from txn.errors import (
    Alarm,
    BranchAborted,
    BranchCommitted,
    BranchDiffers,
    BranchForgotten,
    BranchPrepared,
    Busy,
    Refused,
    ResourceFailed,
    TxnError,
    UnknownBranch,
    Unreachable,
)
from txn.model import Message, Perform, Prepare, Reply, Resolve, VoteReply
from txn.rpc.status import reason_in, reason_of, status_of
from txn.state import Vote

VOTES_OUT = {
    Vote.COMMIT: participant_service_pb2.VOTE_COMMIT,
    Vote.ABORT: participant_service_pb2.VOTE_ABORT,
    Vote.READ_ONLY: participant_service_pb2.VOTE_READ_ONLY,
}
_NO_VOTE = participant_service_pb2.VOTE_UNSPECIFIED
_VOTES_IN = {wire: vote for vote, wire in VOTES_OUT.items()}
# Most votes say nothing more than that.
_PLAIN = {wire: VoteReply(vote) for wire, vote in _VOTES_IN.items()}
_ALARMS: dict[str, type[Alarm]] = {
    "UNKNOWN_BRANCH": UnknownBranch,
    "BRANCH_ABORTED": BranchAborted,
    "BRANCH_COMMITTED": BranchCommitted,
    "RESOURCE_FAILED": ResourceFailed,
    "BRANCH_PREPARED": BranchPrepared,
    "BRANCH_DIFFERS": BranchDiffers,
    "BRANCH_FORGOTTEN": BranchForgotten,
}
# What is answered by a vote.
_VOTED_ON = frozenset({Prepare, Perform, Resolve})
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
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def vote_in(wire: participant_service_pb2.Vote.ValueType, reason: str) -> VoteReply | TxnError:
    """A vote that came; Refused when it is one that this release does not know."""
    if not reason and (plain := _PLAIN.get(wire)) is not None:
        return plain
    vote = _VOTES_IN.get(wire)
    return Refused("UNKNOWN_VOTE") if vote is None else VoteReply(vote, _storable(reason))


def _storable(reason: str) -> str:
    """PostgreSQL keeps no NUL in a text, and this one goes into the log as it is."""
    return reason.replace("\0", "\ufffd")


def replies_in(
    messages: Sequence[Message], response: participant_service_pb2.ExchangeResponse
) -> list[Reply]:
    """What the answer to a batch says. Raises Unreachable when it is not one to this batch."""
    votes = response.votes
    if len(votes) != len(messages):
        raise Unreachable("ANSWERS_MISSING")
    replies: list[Reply] = [
        (_PLAIN.get(vote) or vote_in(vote, "")) if type(message) in _VOTED_ON else None
        for message, vote in zip(messages, votes, strict=True)
    ]
    for note in response.notes:
        place = note.place
        if place >= len(messages):
            raise Unreachable("ANSWERS_MISPLACED")
        message = messages[place]
        if note.HasField("error"):
            code = _CODES.get(note.error.code, grpc.StatusCode.UNKNOWN)
            replies[place] = _error_in(message, code, reason_in(note.error), note.error.message)
        elif type(message) in _VOTED_ON:
            replies[place] = vote_in(votes[place], note.reason)
    return replies


def error_in(message: Message, error: grpc.aio.AioRpcError) -> TxnError:
    """What the status of a unary call says."""
    return _error_in(message, error.code(), reason_of(error), error.details() or "")


def replies_out(
    replies: Sequence[Reply], batch_id: int
) -> participant_service_pb2.ExchangeResponse:
    """The answer to a batch. What is neither a vote nor an error is unspecified: done."""
    response = participant_service_pb2.ExchangeResponse(
        batch_id=batch_id,
        one_phase=True,
        votes=[
            VOTES_OUT[reply.vote] if isinstance(reply, VoteReply) else _NO_VOTE for reply in replies
        ],
    )
    for place, reply in enumerate(replies):
        if isinstance(reply, VoteReply):
            if reply.reason:
                response.notes.add(place=place, reason=reply.reason)
        elif reply is not None:
            response.notes.add(place=place, error=status_of(reply))
    return response


def _error_in(message: Message, code: grpc.StatusCode, reason: str, details: str) -> TxnError:
    if isinstance(message, Prepare):
        if code is grpc.StatusCode.ABORTED:
            return Busy(_storable(reason) or "BUSY")
        if code in _REFUSALS:
            return Refused(_storable(reason) or code.name)
    elif isinstance(message, Perform) and code is grpc.StatusCode.ABORTED:
        return Busy(_storable(reason) or "BUSY")
    elif (alarm := _ALARMS.get(reason)) is not None:
        return alarm(details)
    return Unreachable(code.name)
