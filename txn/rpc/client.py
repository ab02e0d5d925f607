"""A transaction as one call, for whoever wants something done by several participants.

A call returns when the transaction has committed, and raises for everything else: an error
for each thing that its caller may conclude, so that "aborted" is never taken for "not
known yet". What says nothing about the outcome is asked again under the same idempotency
key, which has no second effect.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from tallystick.txn.v1 import coordinator_service_pb2 as pb
from tallystick.txn.v1 import coordinator_service_pb2_grpc

from txn.clock import Backoff
from txn.errors import (
    FieldViolation,
    IdempotencyConflict,
    InvalidOperation,
    OutcomeUnknown,
    Overloaded,
    RequestRefused,
    TransactionAborted,
    TxnError,
    Unreachable,
)
from txn.model import Branch, BranchId, Operation, TxnId
from txn.rpc.attempt import attempt
from txn.rpc.execute_door import EXECUTE_MARGIN_S
from txn.rpc.execute_stream import ExecuteStream
from txn.rpc.numbered_stream import STREAM_MAX_AGE_S, NotOffered, Retiring
from txn.rpc.operation import any_from, check_size
from txn.rpc.participant_transport import UNARY_ONLY_S
from txn.rpc.status import detail_in, reason_in, status_from

EXECUTE_TIMEOUT_S = 15.0
# Transactions of one client at once; who comes then waits for a place.
EXECUTE_IN_FLIGHT_MAX = 1024
_RETRY = Backoff(initial_s=0.05, max_s=2.0)

# Of what RetryInfo asks for.
RETRY_DELAY_MAX_S = 60.0
_RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
# Statuses that say that nothing was begun; all others say nothing about that.
_REFUSES = frozenset(
    {_RESOURCE_EXHAUSTED}
    | {
        code.value[0]
        for code in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.ALREADY_EXISTS,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.OUT_OF_RANGE,
            grpc.StatusCode.UNIMPLEMENTED,
        )
    }
)
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class WaitFor(Enum):
    """When a transaction that commits is told: see WaitFor in the proto."""

    # The outcome is durable; participants may still show the state before.
    DECIDED = pb.WAIT_FOR_DECIDED
    # Every participant has applied it.
    APPLIED = pb.WAIT_FOR_APPLIED


@dataclass(frozen=True, slots=True)
class Committed:
    """Every branch takes effect; final."""

    txn_id: TxnId


@dataclass(slots=True)
class _Asked:
    """One request while it is under way."""

    request: pb.ExecuteRequest
    deadline_s: float
    # Whether an attempt may have begun it, and what the last one came to.
    may_have_begun: bool = False
    why: str = "NOT_SENT"

    def unfinished(self) -> OutcomeUnknown | Overloaded:
        """What may be concluded when there is no more time."""
        if self.may_have_begun:
            return OutcomeUnknown(self.request.idempotency_key, self.why)
        return Overloaded(f"nothing was begun: {self.why}")


class TransactionClient:
    """Runs transactions at the coordinator behind a channel. Use from one event loop.

    An asynchronous context manager; without one, call `close`. The channel stays yours.
    """

    def __init__(
        self, channel: grpc.aio.Channel, *, in_flight_max: int = EXECUTE_IN_FLIGHT_MAX
    ) -> None:
        """Raises ValueError when `in_flight_max` is below 1."""
        if in_flight_max < 1:
            raise ValueError("in_flight_max must be at least 1")
        self._stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = (
            coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        )
        self._places = asyncio.Semaphore(in_flight_max)
        self._rng = random.Random()  # noqa: S311 - jitter, not secrets
        self._stream: ExecuteStream | None = None
        self._unary_until_s = 0.0
        self._retiring = Retiring()
        self._closed = False

    async def execute(
        self,
        operations: Mapping[str, Message] | Sequence[Branch],
        *,
        idempotency_key: str,
        timeout_s: float = EXECUTE_TIMEOUT_S,
        wait_for: WaitFor = WaitFor.APPLIED,
    ) -> Committed:
        """Does all of `operations`, or none; returns when that is final and all are done.

        `operations` are messages by the names of their participants; as branches where one
        participant has several. `idempotency_key` (1 to 200 printable ASCII characters) names
        this transaction: asked again, in this process or another one, it is the same one.

        Raises TransactionAborted: final, nothing took effect. Raises OutcomeUnknown when
        `timeout_s` is over and it is not known: the same call again tells. Nothing was begun
        when it raises InvalidOperation, IdempotencyConflict (the key stands for other
        operations), RequestRefused, or Overloaded (try later). A caller that is cancelled
        knows nothing, as with OutcomeUnknown.
        """
        request = pb.ExecuteRequest(
            idempotency_key=idempotency_key, branches=_branches(operations), wait_for=wait_for.value
        )
        asked = _Asked(request, asyncio.get_running_loop().time() + timeout_s)
        try:
            async with asyncio.timeout_at(asked.deadline_s), self._places:
                return await self._until_final(asked)
        except TimeoutError as error:
            raise asked.unfinished() from error

    async def close(self) -> None:
        """Ends the stream. Calls under way raise OutcomeUnknown, later ones Overloaded."""
        self._closed = True
        if self._stream is not None:
            await self._stream.close()
        await self._retiring.ended()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _until_final(self, asked: _Asked) -> Committed:
        attempts = 0
        while not self._closed:
            wait_s = _RETRY.wait_s(attempts, self._rng)
            attempts += 1
            before, asked.may_have_begun = asked.may_have_begun, True
            try:
                answer = await self._ask(asked)
            except Unreachable as error:
                asked.why = str(error)
            else:
                if isinstance(answer, status_pb2.Status):
                    wait_s = max(wait_s, self._again_after_s(asked, answer, before=before))
                elif answer.outcome == pb.OUTCOME_COMMITTED:
                    return Committed(TxnId(answer.txn_id))
                elif answer.outcome == pb.OUTCOME_ABORTED:
                    raise TransactionAborted(answer.reason, answer.refused_branch_id, answer.txn_id)
                else:
                    asked.why = "PENDING"
                    # The coordinator says so shortly before the end.
                    wait_s = max(wait_s, EXECUTE_MARGIN_S)
            left_s = asked.deadline_s - asyncio.get_running_loop().time()
            if wait_s >= left_s:
                break
            await asyncio.sleep(wait_s)
        raise asked.unfinished()

    def _again_after_s(self, asked: _Asked, status: status_pb2.Status, *, before: bool) -> float:
        """How long to wait at least. Raises where asking again would not help."""
        asked.why = reason_in(status) or _NAMES.get(status.code, "UNKNOWN")
        if status.code not in _REFUSES:
            return 0.0
        # This attempt has begun nothing; an earlier one may have.
        asked.may_have_begun = before
        if status.code == _RESOURCE_EXHAUSTED:
            return _retry_delay_s(status)
        error = _refusal(status, asked.why)
        if before and not isinstance(error, IdempotencyConflict):
            raise asked.unfinished() from error
        raise error

    async def _ask(self, asked: _Asked) -> pb.ExecuteResponse | status_pb2.Status:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._unary_until_s:
            try:
                numbered = await self._open_stream().ask(asked.request)
            except NotOffered:
                self._unary_until_s = now_s + UNARY_ONLY_S
            else:
                return numbered.error if numbered.HasField("error") else numbered.response
        timeout_s = asked.deadline_s - now_s
        try:
            return await attempt(lambda: self._stub.Execute(asked.request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            return status_from(error)

    def _open_stream(self) -> ExecuteStream:
        if self._stream is not None:
            if self._stream.usable:
                return self._stream
            self._retiring.add(self._stream)
            self._stream = None
        try:
            call = self._stub.ExecuteStream(timeout=STREAM_MAX_AGE_S)
        except grpc.aio.UsageError as error:
            raise Unreachable("CHANNEL_CLOSED") from error
        self._stream = ExecuteStream(call)
        return self._stream


def operation_of(message: Message) -> Operation:
    """A message as the operation of a branch."""
    name = f"type.googleapis.com/{message.DESCRIPTOR.full_name}"
    return Operation(name, message.SerializeToString(deterministic=True))


def _branches(operations: Mapping[str, Message] | Sequence[Branch]) -> list[pb.Branch]:
    if isinstance(operations, Mapping):
        operations = [
            # A participant's name may have slashes, that of a branch may not.
            Branch(BranchId(name.replace("/", ".")), name, operation_of(message))
            for name, message in operations.items()
        ]
    for index, branch in enumerate(operations):
        try:
            check_size(branch.operation)
        except InvalidOperation as invalid:
            raise InvalidOperation(
                [each.inside(f"branches[{index}]") for each in invalid.violations]
            ) from None
    return [
        pb.Branch(
            branch_id=branch.branch_id,
            participant=branch.participant,
            operation=any_from(branch.operation),
        )
        for branch in operations
    ]


def _refusal(status: status_pb2.Status, reason: str) -> TxnError:
    name = _NAMES.get(status.code)
    if name == "ALREADY_EXISTS":
        return IdempotencyConflict(status.message)
    if name == "INVALID_ARGUMENT":
        bad = detail_in(status, error_details_pb2.BadRequest)
        named = bad.field_violations if bad is not None else ()
        return InvalidOperation(
            [FieldViolation(v.field, v.reason, v.description) for v in named]
            or [FieldViolation("", "invalid_argument", status.message)]
        )
    return RequestRefused(reason)


def _retry_delay_s(status: status_pb2.Status) -> float:
    info = detail_in(status, error_details_pb2.RetryInfo)
    if info is None:
        return 0.0
    asked_s: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
    return min(max(asked_s, 0.0), RETRY_DELAY_MAX_S)
