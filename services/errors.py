"""What a service tells its callers when it cannot do as asked.

    ServiceError            base; one status, one reason, one sentence
    |-- InvalidArgument     names the fields and the rules
    |-- NotFound            there is no such thing
    |-- AlreadyExists       the name or key stands for something else
    |-- FailedPrecondition  not in the state that it is in
    |-- Aborted             lost against somebody else; the same request may succeed now
    |-- Unauthenticated     who is asking is not known
    |-- Overloaded          a named limit is reached; try later
    `-- Unavailable         something needed is not there; try again

edge.py turns each into a status. Nothing else of the inside reaches a caller.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from txn.errors import FieldViolation


class ServiceError(Exception):
    """Base. `reason` is in UPPER_SNAKE_CASE, `message` is for people, both are public."""

    code = grpc.StatusCode.UNKNOWN

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations: Sequence[FieldViolation] = ()


class InvalidArgument(ServiceError):
    """The request breaks a rule that its proto cannot say."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__("INVALID_REQUEST", describe(violations))
        self.violations = violations


class NotFound(ServiceError):
    """There is no such thing."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    """The name, or the idempotency key, stands for something else."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(ServiceError):
    """Refused because of the state things are in; repeating it does not help."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(ServiceError):
    """Lost against something that was going on; try again."""

    code = grpc.StatusCode.ABORTED


class Unauthenticated(ServiceError):
    """Who is asking could not be proved."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Overloaded(ServiceError):
    """A named limit is reached; nothing was done."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(ServiceError):
    """Something that is needed is not there now; send the same request again."""

    code = grpc.StatusCode.UNAVAILABLE


def describe(violations: Sequence[FieldViolation]) -> str:
    """The first broken rules in a sentence."""
    shown = "; ".join(f"{v.field or 'request'}: {v.description}" for v in violations[:3])
    return f"{shown} (and {len(violations) - 3} more)" if len(violations) > 3 else shown
