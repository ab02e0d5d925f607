"""The directory that holds everything the mesh keeps: books, logs, and what runs.

    <home>/run/     lock, plan and status of the supervisor
    <home>/logs/    <process>.log, and <process>.log.1 before it
    <home>/etcd/    etcd's data, per version; disposable

The books are the services' own files beside these.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from services.launcher.errors import HomeError

PRIVATE_DIRECTORY_MODE = 0o700


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below one state directory."""

    path: Path

    @property
    def run(self) -> Path:
        """What runs: lock, plan and status."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        """Where each process writes."""
        return self.path / "logs"

    @property
    def plan(self) -> Path:
        """What the supervisor was told to run."""
        return self.run / "plan.json"

    @property
    def status(self) -> Path:
        """What the supervisor says runs."""
        return self.run / "status.json"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor as long as it lives: one per home."""
        return self.run / "supervisor.lock"

    @property
    def command_lock(self) -> Path:
        """Held by `up` and `down` while they work, so that they follow one another."""
        return self.run / "command.lock"

    def log(self, name: str) -> Path:
        """The log of one process."""
        return self.logs / f"{name}.log"

    def prepare(self) -> None:
        """Makes the directories; raises HomeError when they cannot be written."""
        with explained(self.path):
            self.path.mkdir(mode=PRIVATE_DIRECTORY_MODE, parents=True, exist_ok=True)
            for directory in (self.run, self.logs):
                directory.mkdir(exist_ok=True)
            write_atomically(self.run / "probe", b"x" * 4096)
            (self.run / "probe").unlink()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError about `path` into a HomeError that says what to do."""
    try:
        yield
    except OSError as error:
        raise HomeError(f"cannot use {path}: {_advice(error)}") from error


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free some space and try again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there: set TALLYSTICK_HOME to a directory of yours"
    return f"{os.strerror(error.errno or 0)}: set TALLYSTICK_HOME to a directory of yours"


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file so that a reader sees the old content or the new, never half.

    Not forced to disk: these files describe processes, which a power cut ends too.
    Raises OSError, and then leaves the old file as it was.
    """
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError:
        with suppress(OSError):
            scratch.unlink()
        raise


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Holds `path` exclusively; yields False, holding nothing, if it is taken and not `wait`.

    The kernel frees the lock when the holder dies, however it dies.
    """
    with explained(path):
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
