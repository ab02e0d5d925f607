"""Operations as google.protobuf.Any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message

from txn.errors import FieldViolation, InvalidOperation
from txn.model import Operation
from txn.rpc.status import violations_of

OPERATION_SIZE_MAX_BYTES = 64 * 1024
TYPE_URL_LENGTH_MAX = 256

M = TypeVar("M", bound=Message)


def operation_from(any_: any_pb2.Any) -> Operation:
    """The engine's view of an Any."""
    return Operation(any_.type_url, any_.value)


def any_from(operation: Operation) -> any_pb2.Any:
    """The wire's view of an operation."""
    return any_pb2.Any(type_url=operation.type_url, value=operation.value)


class OperationCodec(Generic[M]):
    """Reads the operations of a participant: one message type, with its rules checked."""

    def __init__(
        self, message_type: type[M], surely_valid: Callable[[M], bool] | None = None
    ) -> None:
        """`surely_valid` may spare asking protovalidate: True only if no rule is broken."""
        self._type = message_type
        self._name = message_type.DESCRIPTOR.full_name
        # What almost every operation says, compared without taking it apart.
        self._usual_url = f"type.googleapis.com/{self._name}"
        self._surely_valid = surely_valid

    def decode(self, operation: Operation) -> M:
        """An operation from outside. Raises InvalidOperation."""
        check_size(operation)
        message = self.read(operation)
        if self._surely_valid is not None and self._surely_valid(message):
            return message
        if violations := violations_of(message, "operation"):
            raise InvalidOperation(violations)
        return message

    def read(self, operation: Operation) -> M:
        """An operation that was decoded before. Raises InvalidOperation when it is no message."""
        url = operation.type_url
        if url != self._usual_url and url.rpartition("/")[2] != self._name:
            raise _invalid("operation.type", f"must be a {self._name}")
        try:
            return self._type.FromString(operation.value)
        except DecodeError:
            raise _invalid("operation.value", "is not a readable message of its type") from None


def check_size(operation: Operation) -> None:
    """Raises InvalidOperation for one that is too large, or whose type has too long a name."""
    if len(operation.type_url) > TYPE_URL_LENGTH_MAX:
        raise _invalid("operation.type", f"is over {TYPE_URL_LENGTH_MAX} characters")
    if len(operation.value) > OPERATION_SIZE_MAX_BYTES:
        raise _invalid("operation.size", f"is over {OPERATION_SIZE_MAX_BYTES} bytes")


def _invalid(rule: str, description: str) -> InvalidOperation:
    return InvalidOperation([FieldViolation("operation", rule, description)])
