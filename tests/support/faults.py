"""Faults put into real processes: stopped ones, system calls that are slow or fail, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.mesh import ServiceProcess
from tests.support.require import lacking, require
from tests.support.waiting import eventually

# Much longer than a group of those who write to one file takes.
TURN_MAX_S = 2.0
_FILL_STEP_BYTES = 4 * 1024 * 1024
# What strace notes of a call that it had fail, and of a process that it has killed.
_FIRED = ("(INJECTED)", "+++ killed by SIGKILL +++")


@contextmanager
def stopped(process: ServiceProcess) -> Iterator[None]:
    """SIGSTOP for the block: it is there, and says nothing."""
    process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send(signal.SIGCONT)


async def stop_between_turns(
    stop: Callable[[], object], go_on: Callable[[], object], book: Path
) -> None:
    """Stops a process that writes to the SQLite file `book`, and not while it has the turn.

    Who stands still in the middle of a group keeps everybody from writing until it goes on or
    is killed: the kernel's lock has no deadline.
    """
    while True:
        stop()
        with contextlib.suppress(AssertionError):
            await eventually(lambda: _nobody_writes(book), TURN_MAX_S)
            return
        go_on()
        # It may have had the turn, and ends its group now.
        await eventually(lambda: _nobody_writes(book), what="the end of a turn")


def _nobody_writes(book: Path) -> bool:
    path = Path(f"{book}.lock")
    if not path.exists():
        # Its books are on PostgreSQL, where a turn ends with a connection.
        return True
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class HasPid(Protocol):
    """Whom strace may be attached to."""

    @property
    def pid(self) -> int:
        """The running process."""


@dataclass
class Injection:
    """A fault in the system calls of a process."""

    # Known when the block is over.
    fired: bool = False


@asynccontextmanager
async def injected(process: HasPid, call: str, fault: str) -> AsyncIterator[Injection]:
    """Puts a fault into a system call of `process`, in the block, on its `-wal` files.

    `fault` is what strace's `inject` takes, such as `error=EIO:when=1`. Skips the test where
    there is no strace, or no tracing.
    """
    require("strace")
    options = [
        "-f",
        "-P",
        _wal_of(process.pid),
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:{fault}",
    ]
    injection = Injection()
    with tempfile.NamedTemporaryFile() as log:
        async with _attached(process.pid, *options, log=log.name) as refusal:
            if refusal:
                lacking("strace", f"may not trace: {refusal}")
            yield injection
        said = log.read().decode()
    injection.fired = any(mark in said for mark in _FIRED)


def _wal_of(pid: int) -> str:
    files = (each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir())
    return str(next(each for each in files if each.name.endswith(".db-wal")))


async def untraceable() -> str:
    """Why strace cannot be attached to a process that is no child of its; empty where it can."""
    if shutil.which("strace") is None:
        return "there is no strace"
    with _neighbour() as neighbour:
        async with _attached(neighbour.pid) as refusal:
            return f"strace may not trace: {refusal}" if refusal else ""


def _neighbour() -> subprocess.Popen[bytes]:
    """Lives until its input is closed, as it is when a block with it ends."""
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE)


@asynccontextmanager
async def _attached(pid: int, *options: str, log: str = os.devnull) -> AsyncIterator[str]:
    """Has strace attached to a process; yields why it may not be, or nothing once it is."""
    with _strace(pid, "-o", log, *options) as tracer:
        try:
            await eventually(
                lambda: tracer.poll() is not None or traced(pid), what="strace attached"
            )
            assert tracer.stderr is not None
            yield "" if tracer.poll() is None else tracer.stderr.read().strip()
        finally:
            tracer.terminate()
            await asyncio.to_thread(tracer.wait)


def _strace(pid: int, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["strace", "-qq", *options, "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def traced(pid: int, *, threads_only: bool = False) -> bool:
    """Whether every thread of a process has a tracer, or that one thread if so asked."""
    statuses = Path(f"/proc/{pid}").glob("status" if threads_only else "task/*/status")
    return all("TracerPid:\t0\n" not in status.read_text() for status in statuses)


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[None]:
    """A disk of its own at `path`; skips the test where none can be mounted."""
    path.mkdir(parents=True)
    mounted = subprocess.run(
        [require("mount"), "-t", "tmpfs", "-o", f"size={size_bytes}", "none", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        lacking("tmpfs", f"cannot be mounted: {mounted.stderr}")
    try:
        yield
    finally:
        subprocess.run([require("umount"), path], check=True)


@contextmanager
def filled(path: Path, *, leaving_bytes: int) -> Iterator[None]:
    """Takes the room on the disk of `path`, but for so much, in the block."""
    filler = path / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            # Little by little: others write at the same time, and the last byte is meant.
            while (free := shutil.disk_usage(path).free) > leaving_bytes:
                file.write(bytes(min(free - leaving_bytes, _FILL_STEP_BYTES)))
        yield
    finally:
        filler.unlink()
