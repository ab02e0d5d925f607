"""Marks an endpoint that somebody else registered, without losing what they wrote. Pure.

Only `draining` changes. Other fields, other people's metadata and its form (a string or
an object) stay, since the value is theirs and may have fields that we do not know.
"""

from __future__ import annotations

import json
from typing import Any

from discovery.endpoint import MAX_VALUE_BYTES, MalformedEndpointError, decode_value, metadata_name


def marked(value: bytes, *, draining: bool) -> bytes:
    """`value` with its endpoint draining, or not. Equal to `value` when it is so already.

    Raises MalformedEndpointError when `value` holds no endpoint, or metadata that has no
    room for the mark.
    """
    if decode_value(value).draining is draining:
        return value
    update = json.loads(value)
    name = metadata_name(update)
    update[name] = _marked_metadata(update.get(name), draining)
    text = _compact(update).encode()
    if len(text) > MAX_VALUE_BYTES or decode_value(text).draining is not draining:
        raise MalformedEndpointError("its metadata has no room for the mark")
    return text


def _marked_metadata(metadata: Any, draining: bool) -> Any:
    if isinstance(metadata, dict):
        return metadata | {"draining": draining}
    fields = {} if metadata in (None, "") else _parsed(metadata)
    if not isinstance(fields, dict):
        raise MalformedEndpointError("its metadata is not a JSON object, and not ours to change")
    return _compact(fields | {"draining": draining})


def _parsed(metadata: Any) -> Any:
    """What a string of metadata holds; None when that is not JSON."""
    try:
        return json.loads(metadata) if isinstance(metadata, str) else None
    except (ValueError, RecursionError):
        return None


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
