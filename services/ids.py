"""New ids: UUIDv7 (RFC 9562), so that they sort by the time they were made."""

from __future__ import annotations

import uuid_utils

_DIGITS = 32
# How far an id jumps ahead of one that it has to follow: room for the random bits of others.
_LEAP = 1 << 32


def new_id() -> str:
    """32 hexadecimal digits."""
    return uuid_utils.uuid7().hex


def new_id_after(newest: str) -> str:
    """The same, above `newest`, which was made here too or is empty, whatever the clock says."""
    made = new_id()
    if made > newest:
        return made
    return f"{int(newest[:_DIGITS], 16) + _LEAP:0{_DIGITS}x}"
