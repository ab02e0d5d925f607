"""How long a service may wait for another one on behalf of its caller."""

from __future__ import annotations

from txn.rpc import Context

# What is kept back, so that there is still time to say what became of it.
MARGIN_S = 0.5
TIMEOUT_MIN_S = 0.1


def timeout_within(context: Context, timeout_max_s: float) -> float:
    """Seconds to give a call: at most `timeout_max_s`, and less than the caller has left."""
    left_s: float | None = context.time_remaining()
    if left_s is None:
        return timeout_max_s
    return max(TIMEOUT_MIN_S, min(timeout_max_s, left_s - MARGIN_S))
