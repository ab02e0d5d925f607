"""Faults put into real processes: stopped ones, system calls that are slow or fail, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

from tests.support.mesh import ServiceProcess
from tests.support.require import lacking, require
from tests.support.waiting import eventually

_FILL_STEP_BYTES = 4 * 1024 * 1024


@contextmanager
def stopped(process: ServiceProcess) -> Iterator[None]:
    """SIGSTOP for the block: it is there, and says nothing."""
    process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send(signal.SIGCONT)


class HasPid(Protocol):
    """Whom strace may be attached to."""

    @property
    def pid(self) -> int:
        """The running process."""


@asynccontextmanager
async def injected(process: HasPid, call: str, fault: str) -> AsyncIterator[None]:
    """Puts a fault into a system call of `process`, in the block, on its `-wal` files.

    `fault` is what strace's `inject` takes, such as `error=EIO:when=1`. Skips the test where
    there is no strace, or no tracing.
    """
    tracer = _tracer(process.pid, call, fault)
    try:
        await eventually(
            lambda: tracer.poll() is not None or traced(process.pid), what="strace attached"
        )
        if tracer.poll() is not None:
            lacking("strace", f"may not trace: {tracer.communicate()[1].decode()}")
        yield
    finally:
        tracer.terminate()
        await asyncio.to_thread(tracer.communicate)


def traced(pid: int, *, threads_only: bool = False) -> bool:
    """Whether every thread of a process has a tracer, or that one thread if so asked."""
    statuses = Path(f"/proc/{pid}").glob("status" if threads_only else "task/*/status")
    return all("TracerPid:\t0\n" not in status.read_text() for status in statuses)


def _tracer(pid: int, call: str, fault: str) -> subprocess.Popen[bytes]:
    program = require("strace")
    files = (each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir())
    wal = next(each for each in files if each.name.endswith(".db-wal"))
    return subprocess.Popen(
        [
            *(program, "-f", "-qq", "-P", wal, "-e", f"trace={call}"),
            *("-e", f"inject={call}:{fault}", "-o", "/dev/null", "-p", str(pid)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


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
