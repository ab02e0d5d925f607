"""Where processes are born: one that has imported everything, and forks another when asked to.

    python -m tests.support.nursery FD MODULE...

To start Python and import gRPC takes a second, to fork some milliseconds. It imports the
modules, then it reads wishes from the socket FD, one in each line: which module is to be run
as `python -m` would run it, and how. See children.py for who wishes. With it those whom it
has borne end, however it ends.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 65_536
# With each wish: where to log, and where to report.
_FILES = 2


class Nursery:
    """Its children, each with the file where its death is told."""

    def __init__(self, wishes: socket.socket) -> None:
        self._wishes = wishes
        self._deaths, self._woken = os.pipe()
        os.set_blocking(self._deaths, False)
        os.set_blocking(self._woken, False)
        self._reports: dict[int, int] = {}

    def work(self) -> Mapping[str, Any] | None:
        """Bears and reports until nobody wishes any more; in a child, what it is to be."""
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self._wishes.fileno(), self._deaths], [], [])
            if self._deaths in ready:
                os.read(self._deaths, _READ_BYTES)
                self._report_deaths()
            if self._wishes.fileno() in ready:
                line, files, _, _ = socket.recv_fds(self._wishes, _READ_BYTES, _FILES)
                if not line:
                    break
                while not line.endswith(b"\n") and (more := self._wishes.recv(_READ_BYTES)):
                    line += more
                wish = json.loads(line)
                if self._bear(*files):
                    return dict(wish)
        for child in self._reports:
            os.kill(child, signal.SIGKILL)
        return None

    def _bear(self, log: int, report: int) -> bool:
        """Whether this is the child."""
        nursery = os.getpid()
        pid = os.fork()
        if not pid:
            self._leave(nursery)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for mine, standard in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(mine, standard)
            for each in (nothing, log, report):
                os.close(each)
            return True
        os.close(log)
        self._reports[pid] = report
        os.write(report, b"%d\n" % pid)
        return False

    def _leave(self, nursery: int) -> None:
        """A child has nothing of the nursery, but ends with it."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != nursery:
                # It ended before: nobody would be told any more.
                os._exit(0)
        self._wishes.close()
        for each in (self._deaths, self._woken, *self._reports.values()):
            os.close(each)

    def _report_deaths(self) -> None:
        for child in tuple(self._reports):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                report = self._reports.pop(child)
                os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
                os.close(report)


def main(descriptor: int, modules: Sequence[str]) -> None:
    """Works; a child goes on as what it is to be, and ends as that ends."""
    for each in modules:
        importlib.import_module(each)
        # Run later, and not imported, by whoever is to be it.
        if each.endswith(".__main__"):
            del sys.modules[each]
    gc.collect()
    gc.freeze()
    wish = Nursery(socket.socket(fileno=descriptor)).work()
    if wish is not None:
        os.chdir(wish["directory"])
        os.environ.clear()
        os.environ.update(wish["environment"])
        sys.argv = [wish["module"], *wish["arguments"]]
        runpy.run_module(wish["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
