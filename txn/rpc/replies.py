"""A participant's answers on the wire, and back: one way for unary calls and for batches."""

from __future__ import annotations

import grpc
from tallystick.txn.v1 import participant_service_pb2

from txn.errors import (
    Alarm,
    BranchAborted,
    BranchCommitted,
    Busy,
    Refused,
    ResourceFailed,
    TxnError,
    UnknownBranch,
    Unreachable,
)
from txn.model import Message, Prepare, Reply, VoteReply
from txn.rpc.status import reason_in, reason_of, status_of
from txn.state import Vote

VOTES_OUT = {
    Vote.COMMIT: participant_service_pb2.VOTE_COMMIT,
    Vote.ABORT: participant_service_pb2.VOTE_ABORT,
    Vote.READ_ONLY: participant_service_pb2.VOTE_READ_ONLY,
}
_VOTES_IN = {wire: vote for vote, wire in VOTES_OUT.items()}
# Most votes say nothing more than that.
_PLAIN = {wire: VoteReply(vote) for wire, vote in _VOTES_IN.items()}
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
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def vote_in(wire: participant_service_pb2.Vote.ValueType, reason: str) -> VoteReply | TxnError:
    """A vote that came; Refused when it is one that this release does not know."""
    if not reason and (plain := _PLAIN.get(wire)) is not None:
        return plain
    vote = _VOTES_IN.get(wire)
    return Refused("UNKNOWN_VOTE") if vote is None else VoteReply(vote, reason)


def reply_in(message: Message, reply: participant_service_pb2.BranchReply) -> Reply:
    """What one reply of a batch says."""
    if reply.HasField("error"):
        code = _CODES.get(reply.error.code, grpc.StatusCode.UNKNOWN)
        return _error_in(message, code, reason_in(reply.error), reply.error.message)
    return vote_in(reply.vote, reply.reason) if isinstance(message, Prepare) else None


def error_in(message: Message, error: grpc.aio.AioRpcError) -> TxnError:
    """What the status of a unary call says."""
    return _error_in(message, error.code(), reason_of(error), error.details() or "")


def reply_out(reply: Reply, out: participant_service_pb2.BranchReply) -> None:
    """Writes one reply of a batch. What is neither a vote nor an error stays empty: done."""
    if isinstance(reply, VoteReply):
        out.vote = VOTES_OUT[reply.vote]
        if reply.reason:
            out.reason = reply.reason
    elif reply is not None:
        out.error.CopyFrom(status_of(reply))
    else:
        out.SetInParent()


def _error_in(message: Message, code: grpc.StatusCode, reason: str, details: str) -> TxnError:
    if isinstance(message, Prepare):
        if code is grpc.StatusCode.ABORTED:
            return Busy(reason or "BUSY")
        if code in _REFUSALS:
            return Refused(reason or code.name)
    elif (alarm := _ALARMS.get(reason)) is not None:
        return alarm(details)
    return Unreachable(code.name)
