"""New ids of transactions: they sort by the time they were made."""

from __future__ import annotations

import secrets
import time

_TIME_DIGITS = 16


def new_id_after(newest: str) -> str:
    """32 hexadecimal digits, above `newest`, which was made here too or is empty.

    Half of them are nanoseconds of the wall clock, or one more than those of `newest` should
    that clock have been set back; the other half is random, so that two that follow the
    same id differ.
    """
    after_ns = int(newest[:_TIME_DIGITS], 16) if newest else 0
    return f"{max(time.time_ns(), after_ns + 1):0{_TIME_DIGITS}x}{secrets.token_hex(8)}"
