"""The mesh as people run it, by the launcher, with a link of ours before each process."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from services.housekeeping import INTERVAL
from services.launcher import mesh, processes, status
from services.launcher.catalogue import CATALOGUE
from services.launcher.home import Home
from services.launcher.ports import HOST, Ports
from services.launcher.processes import Identity
from services.launcher.settings import Settings
from services.launcher.status import ProcessStatus, State
from tests.chaos.clocks import Clocks
from tests.chaos.faults import COORDINATOR, ETCD, Cast, Victim
from tests.chaos.network import Network
from tests.chaos.runner import MUTANT
from tests.support.passwords import CHEAP_PASSWORDS
from txn.store.opening import EXIT_FENCED

# Below the ports that the kernel gives to those who connect: a process that is killed
# finds its own port free again.
FIRST_PORT, PORT_SPREAD, BLOCK = 20_000, 100, 100
# On a machine that does much else.
UP_DEADLINE_S = 180.0
LINKS_OFFSET = 60
ETCD_OFFSET = 50
# What is over is forgotten while it is looked at, not only minutes later.
HOUSEKEEPING_INTERVAL_S = "5"
SERVICE_ARGUMENTS = (
    "services.{service}", "--replica", "{replica}", "--address", "{address}",
    "--etcd", "{etcd}", "--home", "{home}",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedSettings(Settings):
    """Services are reached, and reach etcd, through links; their clocks can be moved."""

    network: Network
    clocks: Clocks | None
    mutant: str

    def service_command(self, service: str, replica: int, address: str, etcd: str) -> list[str]:
        """The command line of one process."""
        name = f"{service}-{replica}"
        line = Settings.service_command(
            self, service, replica, address, self.network.to_etcd(name, etcd)
        )
        environment = {INTERVAL: HOUSEKEEPING_INTERVAL_S, MUTANT: self.mutant, **CHEAP_PASSWORDS}
        if self.clocks is not None:
            environment |= self.clocks.environment(name)
        return [
            "env",
            *(f"{variable}={value}" for variable, value in environment.items()),
            *line,
            "--advertise",
            self.network.inward(name, address),
        ]


class Rig:
    """A mesh in `home`, up while it is open."""

    def __init__(
        self,
        home: Path,
        *,
        clocks: Clocks | None,
        clients: int,
        mutant: str = "",
        coordinators: int = 1,
    ) -> None:
        """With `mutant` every service has that bug; see runner.py."""
        base = FIRST_PORT + os.getpid() % PORT_SPREAD * BLOCK
        catalogue = tuple(
            replace(
                service,
                port=base + 10 * number,
                replicas=coordinators if service.name == COORDINATOR else service.replicas,
            )
            for number, service in enumerate(CATALOGUE)
        )
        self.network = Network(Ports([base + LINKS_OFFSET]), base + LINKS_OFFSET)
        self.clocks = clocks
        runner: tuple[str, ...] = ("{python}", "-m")
        if clocks is not None or mutant:
            runner = (*runner, "tests.chaos.runner")
        self.settings = LinkedSettings(
            home=Home(home),
            catalogue=catalogue,
            command=(*runner, *SERVICE_ARGUMENTS),
            etcd_port=base + ETCD_OFFSET,
            network=self.network,
            clocks=clocks,
            mutant=mutant,
            up_deadline_s=UP_DEADLINE_S,
        )
        self.cast: Cast = {service.name: service.replicas for service in catalogue}
        self.cast |= {ETCD: 1, "client": clients}
        self._killed: set[Identity] = set()

    @property
    def data(self) -> Path:
        """Where the books are."""
        return self.settings.home.path / "data"

    def advertised(self, victim: Victim) -> str:
        """The address that the registry has of a service."""
        port = next(each.port for each in self.settings.catalogue if each.name == victim.role)
        return self.network.inward(victim.name, f"{HOST}:{port + victim.number}")

    def may_be_fenced(self, process: str, code: int) -> bool:
        """Whether another coordinator may have taken over from it: there has to be one."""
        return (
            code == EXIT_FENCED
            and process.startswith(f"{COORDINATOR}-")
            and self.cast[COORDINATOR] > 1
        )

    @property
    def etcd(self) -> str:
        """Etcd's own address."""
        return f"{HOST}:{self.settings.etcd_port}"

    async def __aenter__(self) -> Self:
        self.settings.home.prepare()
        # Every address is known before anything runs, as long as its port is free.
        for service in self.settings.catalogue:
            for replica in range(service.replicas):
                name, address = f"{service.name}-{replica}", f"{HOST}:{service.port + replica}"
                self.network.inward(name, address)
                self.network.to_etcd(name, self.etcd)
        for number in range(self.cast["client"]):
            self.network.to_etcd(Victim("client", number).name, self.etcd)
        self.network.to_etcd("probe", self.etcd)
        coming_up = asyncio.ensure_future(self._come_up())
        try:
            await asyncio.shield(coming_up)
        except BaseException:
            # Whoever is told to end has a thread left that goes on starting.
            await asyncio.wait([coming_up])
            await self._take_down()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._take_down()

    async def _come_up(self) -> None:
        await self.network.open()
        await asyncio.to_thread(mesh.up, self.settings, None, lambda _: None)

    async def _take_down(self) -> None:
        await asyncio.to_thread(mesh.down, self.settings, lambda _: None)
        await self.network.close()

    def processes(self) -> tuple[ProcessStatus, ...]:
        """What runs, as the supervisor says."""
        return status.read(self.settings.home).processes

    def identity(self, victim: Victim) -> Identity | None:
        """The process of that name that runs now."""
        found = next((p for p in self.processes() if p.name == victim.name), None)
        if found is None or found.identity is None or not processes.alive(found.identity):
            return None
        return found.identity

    def serving(self) -> bool:
        """Whether every process serves."""
        return status.read(self.settings.home).serving

    def back(self, victim: Victim, killed: Identity) -> bool:
        """Whether another process of that name serves."""
        return any(
            p.name == victim.name and p.state is State.SERVING and p.identity != killed
            for p in self.processes()
        )

    def kill(self, victim: Victim) -> Identity | None:
        """SIGKILL; the process that it hit, None when there is none."""
        identity = self.identity(victim)
        if identity is None or identity in self._killed:
            return None
        self._killed.add(identity)
        return identity if processes.send(identity, signal.SIGKILL) else None

    def killed(self, pid: int) -> bool:
        """Whether that one was killed from here."""
        return any(identity.pid == pid for identity in self._killed)
