"""What txn reads of others: requests, batches in columns and their answers, statuses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.order.v1 import order_service_pb2
from tallystick.txn.v1 import coordinator_service_pb2, participant_service_pb2
from tallystick.wallet.v1 import wallet_service_pb2

from services.coordinator.__main__ import OPERATIONS
from services.errors import InvalidArgument
from services.operations import PAY_TRADE, TRANSFER
from services.wire import entry_id_from, money_from
from tests.fuzz.target import Feed, Target, check_shown, message_in
from tests.support.mesh import euros, packed
from txn.errors import InvalidOperation, TxnError, Unreachable
from txn.model import (
    Abort,
    BranchId,
    BranchKey,
    Commit,
    Operation,
    Prepare,
    TxnId,
    VoteReply,
)
from txn.prepared_name import is_schema, name_in
from txn.rpc import client, participant_transport
from txn.rpc.coordinator import CoordinatorServicer
from txn.rpc.page import PAGE_NUMBER_DIGITS_MAX, page_number
from txn.rpc.participant import batch_from
from txn.rpc.quick import (
    surely_valid_exchange,
    surely_valid_execute,
    surely_valid_execute_stream,
)
from txn.rpc.replies import error_in, replies_in, replies_out
from txn.rpc.status import status_from, violations_of

DETAILS_KEY = "grpc-status-details-bin"
_KEY = BranchKey(TxnId("0001-a"), BranchId("b"))
_MESSAGES = (
    Prepare(_KEY, "coordinator", Operation("x/a", b"1")),
    Commit(_KEY),
    Prepare(_KEY, "coordinator", Operation("x/b", b"2")),
    Abort(_KEY),
)


def _page_number(data: bytes) -> None:
    assert 0 <= page_number(data.decode("utf-8", "replace")) < 10**PAGE_NUMBER_DIGITS_MAX


def _violations(message: Message) -> bool:
    """Whether a message breaks a rule; what is said of that can be shown."""
    found = violations_of(message)
    for each in found:
        check_shown(f"{each.field} {each.rule} {each.description}")
    return bool(found)


def _batch(data: bytes) -> None:
    request = message_in(participant_service_pb2.ExchangeRequest, data)
    if request is None:
        return
    is_bad = _violations(request)
    assert not (is_bad and surely_valid_exchange(request))
    if is_bad:
        return
    batch = batch_from(request)
    assert len(batch.messages) == len(request.verbs)
    assert batch == batch_from(participant_transport._request(batch, request.coordinator))


def _gid(data: bytes) -> None:
    gid = data.decode("utf-8", "replace")
    found = name_in(gid)
    if found is not None:
        assert gid == found.gid()
        assert is_schema(found.schema)
        assert gid.isascii()


def _replies(data: bytes) -> None:
    response = message_in(participant_service_pb2.ExchangeResponse, data)
    if response is None:
        return
    replies = replies_in(_MESSAGES, response)
    assert len(replies) == len(_MESSAGES)
    for message, reply in zip(_MESSAGES, replies, strict=True):
        assert isinstance(reply, VoteReply) <= isinstance(message, Prepare)
        assert reply is not None or not isinstance(message, Prepare)
    # What was read is said again so that it reads the same.
    again = replies_in(_MESSAGES, replies_out(replies, response.batch_id))
    assert [*map(_told, replies)] == [*map(_told, again)]


def _told(reply: object) -> object:
    """Only votes are told again word for word: an error is told as its status."""
    return type(reply).__name__ in ("VoteReply", "NoneType") and reply


def _request(data: bytes) -> None:
    request = message_in(coordinator_service_pb2.ExecuteRequest, data)
    if request is None:
        return
    is_bad = _violations(request)
    assert not (is_bad and surely_valid_execute(request))
    if not is_bad:
        servicer = CoordinatorServicer(cast("Any", None), OPERATIONS)
        assert len(servicer.request_in(request).branches) == len(request.branches)


def _any_request(data: bytes) -> None:
    """Of whatever can be read it can be said whether it breaks a rule."""
    feed = Feed(data)
    request = message_in(_requests()[feed.number(len(_requests()))], feed.rest())
    if request is None:
        return
    _violations(request)
    if isinstance(request, coordinator_service_pb2.ExecuteStreamRequest):
        assert not (surely_valid_execute_stream(request) and violations_of(request))


@cache
def _requests() -> Sequence[type[Message]]:
    """The type of every request of ours."""
    modules = (
        coordinator_service_pb2,
        ledger_service_pb2,
        order_service_pb2,
        participant_service_pb2,
        wallet_service_pb2,
    )
    return [
        getattr(module, method.input_type.name)
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def _operation(data: bytes) -> None:
    feed = Feed(data)
    codec: Any = (TRANSFER, PAY_TRADE)[feed.number(2)]
    url = feed.some(255).decode("utf-8", "replace") if feed.number(2) else codec._usual_url
    message = codec.decode(Operation(url, feed.rest()))
    assert not violations_of(message)
    assert message == codec.read(Operation(url, message.SerializeToString()))
    if message.amount.currency_code == "EUR":
        assert money_from(message.amount, "amount").amount_minor > 0


class _Failed(grpc.RpcError):
    """A call that failed with details of a server's choice."""

    def __init__(self, code: grpc.StatusCode, details: str, raw: bytes) -> None:
        self._code, self._details, self._raw = code, details, raw

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return ((DETAILS_KEY, self._raw),)


def _status(data: bytes) -> None:
    """Whatever a server says in its details, the caller gets one of our errors."""
    feed = Feed(data)
    codes = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
    code, message = codes[feed.number(len(codes))], _MESSAGES[feed.number(2)]
    error = cast("Any", _Failed(code, "said", feed.rest()))
    status = status_from(error)
    assert status.code == code.value[0]
    assert isinstance(error_in(message, error), TxnError)
    assert isinstance(client._refusal(status, "REASON"), TxnError)
    assert 0.0 <= client._retry_delay_s(status) <= client.RETRY_DELAY_MAX_S


def _page_token(data: bytes) -> None:
    assert 0 <= entry_id_from(data.decode("utf-8", "replace")) < 2**63


def _seed(message: Message, *before: int) -> bytes:
    return bytes(before) + message.SerializeToString(deterministic=True)


_OPERATION = ledger_service_pb2.TransferOperation(
    debit_account_id="a", credit_account_id="b", amount=euros(5), reference="r"
)
_PAYMENT = order_service_pb2.PayTradeOperation(
    trade_no="t", amount=euros(5), payee_account_id="a", payer_account_id="b"
)
_BATCH = participant_service_pb2.ExchangeRequest(
    batch_id=1,
    coordinator="coordinator",
    verbs=[
        participant_service_pb2.VERB_PREPARE,
        participant_service_pb2.VERB_COMMIT,
        participant_service_pb2.VERB_ABORT,
    ],
    txn_ids=["t1", "t2", "t3"],
    branch_ids=["a", "b", "c"],
    operation_type_urls=["x/a"],
    operation_types=[0],
    operations=[b"x"],
    forgettable_txn_ids=["t0"],
    forgettable_branch_ids=["a"],
    prepare_horizon="t1",
)
_EXECUTE = coordinator_service_pb2.ExecuteRequest(
    idempotency_key="k",
    branches=[
        coordinator_service_pb2.Branch(
            branch_id="ledger", participant="ledger", operation=packed(_OPERATION)
        )
    ],
)
_STATUS = status_pb2.Status(
    code=8,
    message="said",
    details=[
        packed(error_details_pb2.ErrorInfo(reason="UNKNOWN_BRANCH", domain="tallystick")),
        packed(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=1))),
        packed(
            error_details_pb2.BadRequest(
                field_violations=[error_details_pb2.BadRequest.FieldViolation(field="f")]
            )
        ),
    ],
)
# Details that say what they are and are not: only who unpacks them notices.
_UNREADABLE = [
    status_pb2.Status(
        code=code,
        message="said",
        details=[any_pb2.Any(type_url=f"type.googleapis.com/google.rpc.{name}", value=b"\xff")],
    )
    for code, name in ((3, "ErrorInfo"), (8, "RetryInfo"), (3, "BadRequest"))
]
_ANSWERS = participant_service_pb2.ExchangeResponse(
    votes=[
        participant_service_pb2.VOTE_COMMIT,
        participant_service_pb2.VOTE_UNSPECIFIED,
        participant_service_pb2.VOTE_ABORT,
        participant_service_pb2.VOTE_UNSPECIFIED,
    ],
    notes=[
        participant_service_pb2.BranchNote(place=2, reason="NO"),
        participant_service_pb2.BranchNote(place=3, error=_STATUS),
    ],
)
_UNREADABLE_ANSWERS = participant_service_pb2.ExchangeResponse(
    votes=[participant_service_pb2.VOTE_COMMIT] * 4,
    notes=[participant_service_pb2.BranchNote(place=1, error=_UNREADABLE[0])],
)
_WORDS = (b"type.googleapis.com/", b"google.rpc.ErrorInfo", b"EUR", b"\xff" * 9 + b"\x01")
_GID = b"tallystick/shop/0001-a/b/tallystick/coordinator/0123456789abcdef0123456789abcdef"
TARGETS = (
    Target("page-number", _page_number, (InvalidOperation,), (b"12", b"", b"1" * 19), (b"-1",)),
    Target("batch", _batch, (), (_seed(_BATCH),), _WORDS),
    Target(
        "batch-replies",
        _replies,
        (Unreachable,),
        (_seed(_ANSWERS), _seed(_UNREADABLE_ANSWERS)),
        _WORDS,
    ),
    Target("gid", _gid, (InvalidOperation,), (_GID,), (b"tallystick/", b"/", b"'")),
    Target("transaction", _request, (InvalidOperation,), (_seed(_EXECUTE),), _WORDS),
    Target(
        "any-request",
        _any_request,
        (),
        tuple(bytes([number]) for number in range(24)),
        _WORDS,
    ),
    Target(
        "operation",
        _operation,
        (InvalidOperation,),
        (_seed(_OPERATION, 0, 0), _seed(_PAYMENT, 1, 0)),
        _WORDS,
    ),
    Target(
        "status",
        _status,
        (),
        (
            _seed(_STATUS, 7, 1),
            *(_seed(each, each.code - 1, part) for each in _UNREADABLE for part in (0, 1)),
        ),
        _WORDS,
    ),
    Target(
        "page-token",
        _page_token,
        (InvalidArgument,),
        (b"", b"12", "\u0661".encode()),
    ),
)
