"""Who a process is, so that only our own are ever signalled.

A pid alone may have been handed to somebody else since it was written down. A pid
together with the moment the process was born names one process for ever.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GONE_POLL_S = 0.02
STAT_STATE = 0
STAT_START_TICKS = 19


@dataclass(frozen=True, slots=True)
class Identity:
    """One process: its pid and when it was born, in the system's own notation."""

    pid: int
    birth: str


def identify(pid: int) -> Identity | None:
    """The process that has `pid` now; None when there is none, or only its zombie."""
    birth = _birth_linux(pid) if sys.platform == "linux" else _birth_ps(pid)
    return Identity(pid, birth) if birth else None


def alive(identity: Identity) -> bool:
    """Whether that very process still runs."""
    return identify(identity.pid) == identity


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signals that very process; False when it is gone (or not ours to signal)."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "linux":
            return _send_by_descriptor(identity, number)
        else:  # noqa: RET505 - so that mypy sees two platforms, not dead code
            return _send_by_pid(identity, number)
    return False


def wait_gone(identities: Iterable[Identity], timeout_s: float) -> tuple[Identity, ...]:
    """Waits until the processes are gone; returns those that still run at the end."""
    deadline = time.monotonic() + timeout_s
    left = tuple(one for one in identities if alive(one))
    while left and time.monotonic() < deadline:
        select.select((), (), (), GONE_POLL_S)
        left = tuple(one for one in left if alive(one))
    return left


def stop(identities: Iterable[Identity], timeout_s: float) -> tuple[Identity, ...]:
    """Asks processes to end and kills those that have not after `timeout_s` each.

    Returns those that even so still run, normally none.
    """
    mine = tuple(identities)
    for one in mine:
        send(one, signal.SIGTERM)
    stubborn = wait_gone(mine, timeout_s)
    for one in stubborn:
        send(one, signal.SIGKILL)
    return wait_gone(stubborn, timeout_s)


def _birth_linux(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    if fields[STAT_STATE] in "ZX":
        return None
    return f"{_boot_id()}:{fields[STAT_START_TICKS]}"


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return "boot"


def _birth_ps(pid: int) -> str | None:
    found = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout.strip()
    state, _, birth = found.partition(" ")
    return birth.strip() if found and not state.startswith("Z") else None


def _send_by_descriptor(identity: Identity, number: signal.Signals) -> bool:
    assert sys.platform == "linux"
    descriptor = os.pidfd_open(identity.pid)
    try:
        if not alive(identity):  # checked with the process held: its pid cannot be reused now
            return False
        signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)
    return True


def _send_by_pid(identity: Identity, number: signal.Signals) -> bool:
    if not alive(identity):
        return False
    os.kill(identity.pid, number)
    return True
