"""The payment system that is measured: etcd, order, ledger and coordinator, each a process.

They are the shipped services, one replica of each, over stores that are filled before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.etcd import EtcdProcess
from tests.support.mesh import ServiceProcess

SERVICES = ("order", "ledger", "coordinator")


class Rig:
    """See the module's docstring. On entering, `services` are started."""

    def __init__(
        self,
        home: Path,
        services: Sequence[str] = SERVICES,
        variables: Mapping[str, str] | None = None,
        postgres: str = "",
    ) -> None:
        """`variables` are of the environment of all that is launched, `postgres` its database."""
        self.home = home
        self._variables = dict(variables or {})
        self._postgres = postgres
        self.etcd = EtcdProcess()
        self.processes: dict[str, ServiceProcess] = {}
        self._services = services

    @property
    def address(self) -> str:
        """Where the coordinator listens."""
        return self.processes["coordinator"].address

    async def start(self, services: Sequence[str]) -> None:
        """Launches services, all at once, and returns when all of them serve."""
        await asyncio.gather(*(self.launch(service) for service in services))

    async def launch(self, service: str) -> None:
        """Launches one service, and returns when it serves."""
        process = ServiceProcess(service, 0, self.etcd.endpoint, self.home, self._postgres)
        process.variables = self._variables
        process.forked = False
        self.processes[service] = process
        process.launch()
        await process.serving()

    async def stop(self) -> None:
        """Ends them in order, so that their stores are closed."""
        await asyncio.gather(*(process.terminate() for process in self.processes.values()))
        self.processes.clear()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.etcd.start)
        try:
            await self.start(self._services)
        except BaseException:
            self._kill()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self.stop()
        finally:
            self._kill()

    def _kill(self) -> None:
        for process in self.processes.values():
            process.kill9()
        self.etcd.close()
