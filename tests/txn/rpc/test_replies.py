"""What stands in the answer to a batch, and in a status."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tallystick.txn.v1 import participant_service_pb2

from tests.txn.helpers import key, prepare
from txn.errors import Overloaded, Refused, StoreFull, TxnError
from txn.model import Commit, VoteReply
from txn.rpc.replies import replies_in
from txn.rpc.status import reason_in, status_of
from txn.state import Vote


def test_a_reason_belongs_to_votes_only() -> None:
    """A note beside the answer to a commit says of no error, so the commit is done."""
    response = participant_service_pb2.ExchangeResponse(
        votes=[
            participant_service_pb2.VOTE_ABORT,
            participant_service_pb2.VOTE_UNSPECIFIED,
        ]
    )
    for place in (0, 1):
        response.notes.add(place=place, reason="NONE_LEFT")
    replies = replies_in([prepare(), Commit(key("t2"))], response)
    assert [VoteReply(Vote.ABORT, "NONE_LEFT"), None] == replies


def test_a_reason_can_be_written_into_any_log() -> None:
    """Whatever a participant says: PostgreSQL keeps no NUL, and a row is read as it was written."""
    response = participant_service_pb2.ExchangeResponse(
        votes=[participant_service_pb2.VOTE_ABORT, participant_service_pb2.VOTE_UNSPECIFIED]
    )
    response.notes.add(place=0, reason="NONE\0LEFT")
    status = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="NONE\0LEFT"))
    response.notes.add(place=1, error=status)
    voted, refused = replies_in([prepare(), prepare("t2")], response)
    assert VoteReply(Vote.ABORT, "NONE\ufffdLEFT") == voted
    assert isinstance(refused, Refused)
    assert "NONE\ufffdLEFT" == refused.reason


def test_a_reason_is_found_wherever_it_stands() -> None:
    """Details have no order that anybody promises."""
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.BadRequest())
    assert "" == reason_in(status)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="NONE_LEFT"))
    assert "NONE_LEFT" == reason_in(status)


@pytest.mark.parametrize(
    ("error", "code", "reason", "details"),
    [
        (Overloaded("x"), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", 2),
        (StoreFull("x"), grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL", 2),
        (TxnError("x"), grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", 1),
    ],
    ids=lambda each: type(each).__name__,
)
def test_only_who_finds_no_room_is_told_when_to_come_back(
    error: TxnError, code: grpc.StatusCode, reason: str, details: int
) -> None:
    """A delay is for who was turned away with nothing done; every other error has a status too."""
    status = status_of(error)
    assert (code.value[0], reason, details) == (status.code, reason_in(status), len(status.details))
