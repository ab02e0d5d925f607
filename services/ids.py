"""New ids: UUIDv7 (RFC 9562), so that they sort by the time they were made."""

from __future__ import annotations

import secrets

import uuid_utils

_DIGITS = 32
# How far, at random, an id jumps ahead of one that it has to follow. At random, because what
# it follows after a restart is the newest id that was decided: one beyond it may be prepared
# somewhere and decided by nobody yet, and must not be given to another transaction.
_LEAP_BITS = 48


def new_id() -> str:
    """32 hexadecimal digits."""
    return uuid_utils.uuid7().hex


def new_id_after(newest: str) -> str:
    """The same, above `newest`, which was made here too or is empty, whatever the clock says.

    Unique all the same: two that follow the same id differ.
    """
    made = new_id()
    if made > newest:
        return made
    leap = 1 + secrets.randbits(_LEAP_BITS)
    return f"{int(newest[:_DIGITS], 16) + leap:0{_DIGITS}x}"
