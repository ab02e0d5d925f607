"""What stands for a call of a thread when interceptors raise, or return something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from balancer.sync_over import Over

_DETAILS = "Exception raised while intercepting the RPC"


class EndedCall(Over):
    """A call that has ended with what `error` says, or well if that is None."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        """That of the error if it has one; as in gRPC INTERNAL for any other."""
        if self._error is None:
            return grpc.StatusCode.OK
        code: grpc.StatusCode = self._said("code", grpc.StatusCode.INTERNAL)
        return code

    def details(self) -> str:
        """Those of the error if it has any; gRPC's own words for any other."""
        return "" if self._error is None else str(self._said("details", _DETAILS))

    def initial_metadata(self) -> Any:
        """That of the error; empty if no server was reached."""
        return self._said("initial_metadata", ())

    def trailing_metadata(self) -> Any:
        """That of the error; empty if no server was reached."""
        return self._said("trailing_metadata", ())

    def debug_error_string(self) -> str:
        """As gRPC's call objects have it."""
        return "" if self._error is None else str(self._said("debug_error_string", self._error))

    def cancelled(self) -> bool:
        """False."""
        return False

    def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - there is no wait
        """Raises the error."""
        if self._error is not None:
            raise self._error

    def exception(self, timeout: float | None = None) -> Exception | None:  # noqa: ARG002 - there is no wait
        """The error."""
        return self._error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:  # noqa: ARG002 - there is no wait
        """That of the error."""
        return None if self._error is None else self._error.__traceback__

    def __iter__(self) -> EndedCall:
        return self

    def __next__(self) -> Any:
        raise self._error or StopIteration

    def _said(self, accessor: str, otherwise: Any) -> Any:
        ask = getattr(self._error, accessor, None)
        return otherwise if ask is None else ask()


class IteratedCall(grpc.Call):
    """`call`, except that its responses come from `responses`."""

    def __init__(self, call: Any, responses: Any) -> None:
        self._call = call
        self._responses: Iterator[Any] = iter(responses)

    def beneath(self) -> Any:
        """The call whose responses were replaced."""
        return self._call

    def __getattr__(self, name: str) -> Any:
        # Whatever else gRPC's own call object can do: it is a future, too.
        return getattr(self._call, name)

    def code(self) -> grpc.StatusCode:
        """As grpc.Call."""
        code: grpc.StatusCode = self._call.code()
        return code

    def details(self) -> str:
        """As grpc.Call."""
        return str(self._call.details())

    def initial_metadata(self) -> Any:
        """As grpc.Call."""
        return self._call.initial_metadata()

    def trailing_metadata(self) -> Any:
        """As grpc.Call."""
        return self._call.trailing_metadata()

    def is_active(self) -> bool:
        """Whether the call has no status yet; there may still be responses to read."""
        return bool(self._call.is_active())

    def time_remaining(self) -> float:
        """Seconds until the deadline of the call."""
        remaining: float = self._call.time_remaining()
        return remaining

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls `callback` when the call ends; False if it has."""
        return bool(self._call.add_callback(callback))

    def cancel(self) -> bool:
        """Ends the call; False if it has ended already."""
        return bool(self._call.cancel())

    def __iter__(self) -> IteratedCall:
        return self

    def __next__(self) -> Any:
        return next(self._responses)


def adopt_responses(returned: Any, inner: Any) -> Any:
    """`returned`, or the call `inner` with its responses replaced if it is only an iterator.

    `inner` is None if the interceptor made no call.
    """
    if hasattr(returned, "code"):
        return returned
    return IteratedCall(EndedCall() if inner is None else inner, returned)
