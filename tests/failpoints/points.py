"""The crash point of a host under test: notes every point, and kills whom a test has named.

What is armed stands in a file that is read at every point, so that a process need not be
started again to be armed, and may kill another one: then it waits until that is dead and
goes on, as if it had died at this very moment.
"""

from __future__ import annotations

import os
import select
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DIES_WITHIN_MS = 5_000


@dataclass(frozen=True, slots=True)
class Armed:
    """The `occurrence`-th time that `role` comes to `point`, `victim` is killed."""

    token: int
    role: str
    point: str
    occurrence: int
    victim: str

    def write(self, home: Path) -> None:
        """Arms the hosts of `home`, at once and for one kill."""
        text = f"{self.token} {self.role} {self.point} {self.occurrence} {self.victim}"
        draft = home / "armed.new"
        draft.write_text(text, encoding="ascii")
        draft.rename(_armed(home))

    @classmethod
    def read(cls, home: Path) -> Armed | None:
        """What is armed now."""
        try:
            token, role, point, occurrence, victim = _armed(home).read_text("ascii").split()
        except FileNotFoundError:
            return None
        return cls(int(token), role, point, int(occurrence), victim)


def disarm(home: Path) -> None:
    """Nobody is killed any more."""
    _armed(home).unlink(missing_ok=True)


def _armed(home: Path) -> Path:
    return home / "armed"


def passed_in(home: Path) -> list[tuple[str, str]]:
    """Who came to which point, in order, since `forget_passed`."""
    with suppress(FileNotFoundError):
        lines = _passed(home).read_text("ascii").splitlines()
        return [(role, name) for role, _, name in (line.partition(" ") for line in lines)]
    return []


def forget_passed(home: Path) -> None:
    """Begins anew."""
    _passed(home).write_bytes(b"")


def _passed(home: Path) -> Path:
    return home / "passed"


class HostPoints:
    """A CrashPoint."""

    def __init__(self, home: Path, role: str) -> None:
        self._home = home
        self._role = role
        self._passed = os.open(_passed(home), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        _pid(home, role).write_text(str(os.getpid()), "ascii")
        self._token = 0
        self._counted: Counter[str] = Counter()

    def __call__(self, name: str) -> None:
        """See CrashPoint."""
        os.write(self._passed, f"{self._role} {name}\n".encode())
        armed = Armed.read(self._home)
        if armed is None or armed.role != self._role:
            return
        if armed.token != self._token:
            self._token = armed.token
            self._counted.clear()
        self._counted[name] += 1
        if (name, self._counted[name]) == (armed.point, armed.occurrence):
            disarm(self._home)
            if armed.victim == self._role:
                os.kill(os.getpid(), signal.SIGKILL)
            _kill(int(_pid(self._home, armed.victim).read_text("ascii")))


def _pid(home: Path, role: str) -> Path:
    return home / f"{role}.pid"


def _kill(pid: int) -> None:
    """As kill -9 does; returns when that host is dead."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Its number may be another's by now, but not that of another child of the nursery.
        stat = Path(f"/proc/{pid}/stat").read_text("ascii")
        if int(stat.rpartition(")")[2].split()[1]) != os.getppid():
            return
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(DIES_WITHIN_MS):
            raise TimeoutError(f"process {pid} does not die")
    finally:
        os.close(descriptor)
