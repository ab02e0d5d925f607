"""Crash points armed from the environment, for tests only: TALLYSTICK_FAILPOINT=after-decision."""

from __future__ import annotations

import os
import signal

from txn.crash_point import CrashPoint, no_crash

VARIABLE = "TALLYSTICK_FAILPOINT"


def crash_point() -> CrashPoint:
    """Kills this process, as kill -9 would, when it gets to the point that is named."""
    armed = os.environ.get(VARIABLE)
    if not armed:
        return no_crash

    def crash(name: str) -> None:
        if name == armed:
            os.kill(os.getpid(), signal.SIGKILL)

    return crash
