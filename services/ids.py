"""New ids: UUIDv7 (RFC 9562), so that they sort by the time they were made."""

from __future__ import annotations

import uuid_utils


def new_id() -> str:
    """32 hexadecimal digits."""
    return uuid_utils.uuid7().hex
