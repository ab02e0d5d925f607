"""Processes that a nursery bears: as those of `python -m`, and there in some milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_READ_BYTES = 64
_CLOSED_WITHIN_S = 20.0
_KILLED_WITH_IT = -signal.SIGKILL


class Child:
    """One of them, with the names that subprocess.Popen has; threads may wait for it, too."""

    def __init__(self, report: int) -> None:
        """Is told its number, and later its end, in the file `report`."""
        self._report = report
        # Whoever waits looks into it: its number must not be that of another file before.
        weakref.finalize(self, os.close, report)
        self._unread = b""
        self.pid = int(self._line())
        self._code: int | None = None
        self._hearing = threading.Lock()
        self._over = asyncio.Event()
        self._watchers = 0

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self._code is None and select.select([self._report], [], [], 0)[0]:
            self._hear()
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises TimeoutExpired."""
        if self._code is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self._hear()
        assert self._code is not None
        return self._code

    async def ended(self) -> int:
        """The same, without a thread or a deadline; for one who waits."""
        if self.poll() is None:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._report, self._notice)
            self._watchers += 1
            try:
                await self._over.wait()
            finally:
                self._watchers -= 1
                if not self._watchers:
                    loop.remove_reader(self._report)
        return self.wait()

    def send_signal(self, number: int) -> None:
        """To a process that is there, or was a moment ago."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Without warning."""
        self.send_signal(signal.SIGKILL)

    def _notice(self) -> None:
        self._hear()
        self._over.set()

    def _hear(self) -> None:
        with self._hearing:
            if self._code is None:
                # Empty when the nursery has ended.
                self._code = int(self._line() or _KILLED_WITH_IT)

    def _line(self) -> bytes:
        while b"\n" not in self._unread and (read := os.read(self._report, _READ_BYTES)):
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return line


class Nursery:
    """A process that bears those of some modules, which it has imported; see nursery.py."""

    def __init__(self, *modules: str) -> None:
        """Starts it, and does not wait for it."""
        self._wishes, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.nursery", str(theirs.fileno()), *modules],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        """Of the nursery itself."""
        return self._process.pid

    def bear(
        self, module: str, arguments: Sequence[str], log: int, environment: Mapping[str, str]
    ) -> Child:
        """What `python -m module arguments` would be; it writes to the open file `log`."""
        wish = {
            "module": module,
            "arguments": arguments,
            "environment": dict(environment),
            "directory": str(ROOT),
        }
        mine, theirs = os.pipe()
        try:
            sent = json.dumps(wish).encode() + b"\n"
            done = socket.send_fds(self._wishes, [sent], [log, theirs])
            self._wishes.sendall(sent[done:])
        finally:
            os.close(theirs)
        return Child(mine)

    def close(self) -> None:
        """Ends it, and whomever it has borne."""
        self._wishes.close()
        try:
            self._process.wait(_CLOSED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
