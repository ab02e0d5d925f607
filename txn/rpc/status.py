"""Errors as statuses, in one place.

Details follow AIP-193: ErrorInfo for machines, BadRequest for fields.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
import protovalidate
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from txn.errors import (
    BranchAborted,
    BranchCommitted,
    BranchDiffers,
    BranchForgotten,
    BranchPrepared,
    Busy,
    FieldViolation,
    ForceRefused,
    IdempotencyConflict,
    InvalidOperation,
    LogDamaged,
    NotFound,
    OtherLog,
    Overloaded,
    ResourceFailed,
    ShuttingDown,
    StoreFull,
    TooOld,
    TxnError,
    UnknownBranch,
    UnknownParticipant,
)

ERROR_DOMAIN = "tallystick"
# What who is turned away for want of room is asked to wait before the next attempt.
RETRY_DELAY_S = 1
# A status travels in a header, and callers take no more than 16 KiB of those.
FIELD_VIOLATIONS_MAX = 20

T = TypeVar("T")
M = TypeVar("M", bound=Message)
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_STATUS: tuple[tuple[type[TxnError], grpc.StatusCode, str], ...] = (
    (InvalidOperation, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_OPERATION"),
    (UnknownParticipant, grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_PARTICIPANT"),
    (IdempotencyConflict, grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_CONFLICT"),
    (NotFound, grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    (UnknownBranch, grpc.StatusCode.FAILED_PRECONDITION, "UNKNOWN_BRANCH"),
    (BranchAborted, grpc.StatusCode.FAILED_PRECONDITION, "BRANCH_ABORTED"),
    (ResourceFailed, grpc.StatusCode.FAILED_PRECONDITION, "RESOURCE_FAILED"),
    (BranchCommitted, grpc.StatusCode.FAILED_PRECONDITION, "BRANCH_COMMITTED"),
    (BranchPrepared, grpc.StatusCode.FAILED_PRECONDITION, "BRANCH_PREPARED"),
    (BranchDiffers, grpc.StatusCode.FAILED_PRECONDITION, "BRANCH_DIFFERS"),
    (BranchForgotten, grpc.StatusCode.FAILED_PRECONDITION, "BRANCH_FORGOTTEN"),
    (ForceRefused, grpc.StatusCode.FAILED_PRECONDITION, "FORCE_REFUSED"),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    (StoreFull, grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"),
    (TooOld, grpc.StatusCode.FAILED_PRECONDITION, "TOO_OLD"),
    (LogDamaged, grpc.StatusCode.DATA_LOSS, "LOG_DAMAGED"),
    (OtherLog, grpc.StatusCode.UNAVAILABLE, "OTHER_LOG"),
    (ShuttingDown, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"),
    (TxnError, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
)


def rich_status(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    violations: Sequence[FieldViolation] = (),
) -> status_pb2.Status:
    """A google.rpc.Status with ErrorInfo and, where fields are to blame, BadRequest.

    Of the violations it names the first FIELD_VIOLATIONS_MAX.
    """
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN))
    if violations:
        bad = error_details_pb2.BadRequest()
        for violation in violations[:FIELD_VIOLATIONS_MAX]:
            bad.field_violations.add(
                field=violation.field, reason=violation.rule, description=violation.description
            )
        status.details.add().Pack(bad)
    return status


def status_of(error: TxnError) -> status_pb2.Status:
    """The status for an error of this package."""
    if isinstance(error, Busy):
        message = "held by another transaction: ask again"
        return rich_status(grpc.StatusCode.ABORTED, error.reason, message)
    code, reason = next(row[1:] for row in _STATUS if isinstance(error, row[0]))
    status = rich_status(code, reason, str(error), _violations_of(error))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        delay = duration_pb2.Duration(seconds=RETRY_DELAY_S)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def invalid_request(violations: Sequence[FieldViolation]) -> status_pb2.Status:
    """The status of a request that breaks rules of its proto."""
    message = "the request breaks a rule"
    return rich_status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", message, violations)


def _violations_of(error: TxnError) -> Sequence[FieldViolation]:
    if isinstance(error, InvalidOperation):
        return error.violations
    if isinstance(error, UnknownParticipant):
        field = f"branches[{error.index}].participant"
        return [FieldViolation(field, "participant.allowed", "not a participant of this service")]
    return ()


def reason_of(error: grpc.RpcError) -> str:
    """ErrorInfo.reason of a failed call; empty when it has none, or none that can be read."""
    return reason_in(status_from(error))


def status_from(error: grpc.RpcError) -> status_pb2.Status:
    """The status of a failed call, with its details where it has some that can be read."""
    try:
        # grpc_status is typed for sync calls; aio errors carry the same three accessors.
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
    except (DecodeError, ValueError):
        # Details that are garbage, or of another status than the call's.
        status = None
    if status is not None:
        return status
    code: grpc.StatusCode = error.code()
    return status_pb2.Status(code=code.value[0], message=error.details() or "")


def reason_in(status: status_pb2.Status) -> str:
    """ErrorInfo.reason of a status; empty when it has none."""
    info = detail_in(status, error_details_pb2.ErrorInfo)
    return "" if info is None else info.reason


def detail_in(status: status_pb2.Status, kind: type[M]) -> M | None:
    """The first detail of that kind that can be read: whoever sent it may have sent anything."""
    for detail in status.details:
        found = kind()
        try:
            if detail.Unpack(found):
                return found
        except DecodeError:
            # It says what it is, and is not.
            continue
    return None


def violations_of(message: Message, prefix: str = "") -> list[FieldViolation]:
    """The rules of its proto that a message breaks."""
    found = []
    for violation in protovalidate.collect_violations(message):
        path = _path(violation.proto.field)
        found.append(
            FieldViolation(
                ".".join(part for part in (prefix, path) if part),
                violation.proto.rule_id,
                violation.proto.message,
            )
        )
    return found


def _path(field: protovalidate.FieldPathPb | None) -> str:
    path = ""
    for element in field.elements if field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is not None and subscript.field == "index":
            path += f"[{subscript.value}]"
    return path


async def abort_with(context: Context, status: status_pb2.Status) -> NoReturn:
    """Ends the call with a status and its details."""
    await context.abort_with_status(rpc_status.to_status(status))


async def or_abort(context: Context, work: Awaitable[T]) -> T:
    """The result of `work`; ends the call when it raises an error of this package."""
    try:
        return await work
    except TxnError as error:
        await abort_with(context, status_of(error))
