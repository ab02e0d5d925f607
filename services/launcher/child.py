"""One process of the mesh: started, watched, and started again when it dies.

It writes to its log by itself, in a session of its own, so that it outlives both the
terminal and the supervisor.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog

from services.launcher import etcd, health
from services.launcher.plan import ProcessPlan
from services.launcher.processes import identify
from services.launcher.status import POSTGRES, ProcessStatus, State

RESTART_FIRST_DELAY_S = 0.2
RESTART_DELAY_MAX_S = 5.0
STABLE_S = 10.0

log = structlog.get_logger()


def restart_delay_s(failures: int) -> float:
    """How long to wait before the restart after that many ends in a row: 0, 0.2, 0.4, ... 5."""
    if failures <= 1:
        return 0.0
    return min(RESTART_FIRST_DELAY_S * 2.0 ** min(failures - 2, 16), RESTART_DELAY_MAX_S)


class Child:
    """Keeps one planned process running until told to stop."""

    def __init__(
        self,
        plan: ProcessPlan,
        *,
        repository: Path,
        output: Path,
        changed: Callable[[], None],
        variables: Mapping[str, str],
    ) -> None:
        """`variables` are put into its environment."""
        self.status = ProcessStatus(plan.name, plan.service, plan.replica, plan.address)
        self.serves = asyncio.Event()
        self._plan = plan
        self._repository = repository
        self._output = output
        self._changed = changed
        self._variables = variables
        self._is_postgres = plan.service == POSTGRES
        self._stop = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Runs the process again and again; returns once it is stopped."""
        while not self._stop.is_set():
            await self._run_once()
            if self._stop.is_set():
                break
            failures = self.status.failures + 1
            self._update(state=State.RESTARTING, identity=None, failures=failures)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), restart_delay_s(failures))
            self._update(restarts=self.status.restarts + 1)
        self._update(state=State.STOPPED, identity=None)

    async def stop(self, drain_timeout_s: float) -> None:
        """Asks the process to drain, and kills it when it has not ended in time."""
        self._stop.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._update(state=State.STOPPING)
        with suppress(ProcessLookupError):
            # To PostgreSQL SIGTERM means to wait for whoever is connected.
            process.send_signal(signal.SIGINT if self._is_postgres else signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), drain_timeout_s)
        except TimeoutError:
            log.warning("killed", process=self._plan.name, drain_timeout_s=drain_timeout_s)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run_once(self) -> None:
        try:
            self._process = process = await self._spawn()
        except OSError as error:
            log.error("not started", process=self._plan.name, error=str(error))  # noqa: TRY400 - one line
            return
        self._update(state=State.STARTING, identity=identify(process.pid))
        if self._stop.is_set():  # told to while it was being born
            process.terminate()
        clock = asyncio.get_running_loop().time
        started_s = clock()
        watch = health.watch_postgres if self._is_postgres else health.watch
        watcher = asyncio.create_task(watch(self._plan.address, self._report))
        try:
            code = await process.wait()
        finally:
            watcher.cancel()
        if self.serves.is_set() and clock() - started_s >= STABLE_S:
            self._update(failures=0)
        self.serves.clear()
        log.info("ended", process=self._plan.name, pid=process.pid, code=code)

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self._output.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *self._plan.command,
                cwd=self._repository,
                env={**etcd.without_options(os.environ), **self._variables},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _report(self, serves: bool) -> None:
        if self._stop.is_set():
            return
        if serves:
            self.serves.set()
            self._update(state=State.SERVING)
        elif self.serves.is_set():
            self._update(state=State.NOT_SERVING)

    def _update(self, **fields: object) -> None:
        status = replace(self.status, **fields)  # type: ignore[arg-type]
        if status != self.status:
            self.status = status
            log.info("state", process=status.name, state=status.state, restarts=status.restarts)
            self._changed()
