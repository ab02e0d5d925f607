"""With which status a call ended: one that never reached a server, and one of grpc.aio."""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc


class Status(NamedTuple):
    """How a call ended that never reached a server."""

    code: grpc.StatusCode
    details: str


def final_code(call: Any) -> grpc.StatusCode:
    """The status code of a call that is done, without waiting."""
    code: grpc.StatusCode = _at_once(call.code(), grpc.StatusCode.UNKNOWN)
    return code


def final_details(call: Any) -> str:
    """The details of the status of a call that is done, without waiting."""
    return str(_at_once(call.details(), ""))


def final_trailers(call: Any) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata of a call that is done, without waiting."""
    return tuple(_at_once(call.trailing_metadata(), ()) or ())


def _at_once(coroutine: Any, otherwise: Any) -> Any:
    # The accessors of a call are coroutines that do not suspend once the status is there,
    # so that one step takes them to their end.
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value
    coroutine.close()
    return otherwise
