"""The process behind `make up`: starts the mesh, restarts what dies, drains it on SIGTERM.

    python -m services.launcher.supervisor <home>

It holds no state that matters. Killed, it leaves the mesh working; the next `up` or
`down` finds the processes in the status file and ends them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from services.launcher import plan as plans
from services.launcher import status as statuses
from services.launcher.child import Child
from services.launcher.errors import LauncherError
from services.launcher.home import Home, locked, write_atomically
from services.launcher.plan import MeshPlan
from services.launcher.processes import identify
from services.launcher.settings import ETCD_DRAIN_S, SERVICE_DRAIN_S
from services.launcher.status import MeshStatus

HEAD_START_S = 5.0
LOG_CHECK_INTERVAL_S = 5.0
LOG_BYTES_MAX = 16 * 1024 * 1024

log = structlog.get_logger()


class Supervisor:
    """Runs one plan."""

    def __init__(self, plan: MeshPlan, home: Home) -> None:
        self._home = home
        self._etcd, self._store = plan.etcd, plan.store
        self._identity = identify(os.getpid())
        self._stop = asyncio.Event()
        self._children = [
            Child(
                process,
                repository=Path(plan.repository),
                output=home.log(process.name),
                changed=self._publish,
                variables=plan.variables,
            )
            for process in plan.processes
        ]

    async def run(self) -> None:
        """Runs the mesh until SIGTERM or SIGINT, then takes it down."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._publish()
        tasks: list[asyncio.Task[None]] = [asyncio.create_task(self._keep_logs_short())]
        below, services = self._kinds()
        tasks += [asyncio.create_task(child.run()) for child in below]
        await self._head_start(below)
        if not self._stop.is_set():
            tasks += [asyncio.create_task(child.run()) for child in services]
        await self._stop.wait()
        await self._take_down(below, services)
        tasks.pop(0).cancel()
        await asyncio.gather(*tasks)
        self._home.status.unlink(missing_ok=True)

    def _kinds(self) -> tuple[list[Child], list[Child]]:
        below = [child for child in self._children if child.status.is_foundation]
        return below, [child for child in self._children if child not in below]

    async def _head_start(self, below: list[Child]) -> None:
        """Lets etcd and the database come up first: services rarely meet their retry delays."""
        ready = asyncio.ensure_future(asyncio.gather(*(child.serves.wait() for child in below)))
        stop = asyncio.create_task(self._stop.wait())
        either: set[asyncio.Future[Any]] = {stop, ready}
        await asyncio.wait(either, timeout=HEAD_START_S, return_when=asyncio.FIRST_COMPLETED)
        for task in either:
            task.cancel()

    async def _take_down(self, below: list[Child], services: list[Child]) -> None:
        """Services first: they deregister, for which they need etcd, and finish what they write."""
        log.info("stopping")
        await asyncio.gather(*(child.stop(SERVICE_DRAIN_S) for child in services))
        await asyncio.gather(*(child.stop(ETCD_DRAIN_S) for child in below))

    def _publish(self) -> None:
        status = MeshStatus(
            self._identity, tuple(child.status for child in self._children), self._etcd, self._store
        )
        try:
            write_atomically(self._home.status, statuses.encode(status))
        except OSError as error:  # a full disk must not take the mesh down
            log.error("status not written", error=str(error))  # noqa: TRY400 - one line

    async def _keep_logs_short(self) -> None:
        while True:
            for path in self._home.logs.glob("*.log"):
                with suppress(OSError):
                    shorten(path)
            await asyncio.sleep(LOG_CHECK_INTERVAL_S)


def shorten(path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Moves the content of a log aside once it exceeds `bytes_max`; raises OSError.

    The writer keeps its descriptor, which appends: so the file is copied and emptied,
    not renamed. What is written in between is lost.
    """
    if path.stat().st_size > bytes_max:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)


def main(home: Home) -> int:
    """Runs as the one supervisor of `home`; returns the exit code."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with locked(home.supervisor_lock, wait=False) as held:
            if held:
                asyncio.run(_supervise(home))
                return 0
            log.error("another supervisor runs", home=str(home.path))
    except (LauncherError, OSError, ValueError) as error:
        log.error("supervisor not started", error=str(error))  # noqa: TRY400 - one line
    return 1


async def _supervise(home: Home) -> None:
    await Supervisor(plans.load(home.plan), home).run()


if __name__ == "__main__":
    sys.exit(main(Home(Path(sys.argv[1]))))
