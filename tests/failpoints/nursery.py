"""Where hosts are born: a process that has imported everything, and forks one when asked to.

    python -m tests.failpoints.nursery

To start Python and import gRPC takes a second, to fork some milliseconds. It reads a plan
of a host from each line, or a signal for one, and writes a line for each birth and death.
With it its hosts end, however it ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from tests.failpoints.host import HostPlan, Settings, run

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 65_536


def main() -> None:
    """Forks and reports until its input ends."""
    deaths, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    unread = b""
    while True:
        ready, _, _ = select.select([0, deaths], [], [])
        if deaths in ready:
            os.read(deaths, _READ_BYTES)
            _report_deaths(children)
        if 0 in ready:
            chunk = os.read(0, _READ_BYTES)
            if not chunk:
                break
            *lines, unread = (unread + chunk).split(b"\n")
            for line in lines:
                _obey(json.loads(line), children)
    for child in children:
        os.kill(child, signal.SIGKILL)


def _obey(wish: dict[str, Any], children: set[int]) -> None:
    if "send" not in wish:
        children.add(_bear(wish))
    elif wish["to"] in children:
        os.kill(wish["to"], wish["send"])


def _bear(plan: dict[str, Any]) -> int:
    pid = os.fork()
    if not pid:
        _live(HostPlan(**{**plan, "settings": Settings(**plan["settings"])}))
    _say(born=pid)
    return pid


def _live(plan: HostPlan) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        log = os.open(
            Path(plan.home) / f"{plan.role}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run(plan)
    except BaseException:  # noqa: BLE001 - it must not go on as another nursery
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(1)


def _report_deaths(children: set[int]) -> None:
    for child in tuple(children):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            children.discard(child)
            _say(dead=pid, code=os.waitstatus_to_exitcode(status))


def _say(**what: int) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
