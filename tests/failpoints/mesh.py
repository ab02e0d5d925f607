"""Three hosts and who watches over them: what dies is started again, and is looked at first."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tallystick.txn.v1 import coordinator_service_pb2_grpc

from tests.failpoints.host import COORDINATOR, ROLES, HostPlan, Settings, channel_to
from tests.failpoints.points import Armed, disarm, forget_passed, passed_in
from tests.support.books import rows_of
from tests.support.children import Child, Nursery
from tests.support.mesh import START_TIMEOUT_S
from tests.support.waiting import POLL_S, eventually

KILLED = -signal.SIGKILL
CANNOT_START = 1
ALARM_LENGTH_MAX = 4_000
HOST = "tests.failpoints.host"
_IN_MEMORY = Path("/dev/shm")


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory for books, in memory where that can be: who is killed loses nothing written."""
    return tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None)


def _reserved() -> socket.socket:
    """A port that nobody else is given; whoever sets SO_REUSEADDR may listen on it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


async def serving(port: int) -> None:
    """Waits until somebody serves there; that a port is open says less."""
    async with asyncio.timeout(START_TIMEOUT_S), channel_to(port) as channel:
        await channel.channel_ready()


class Host:
    """One role of a mesh, and its lives."""

    def __init__(self, plan: HostPlan, nursery: Nursery, on_death: Callable[[str], None]) -> None:
        self._plan = plan
        self._nursery = nursery
        self._on_death = on_death
        self._wanted = asyncio.Event()
        self._up = asyncio.Event()
        self._closing = False
        self._living: Child | None = None
        self._log = Path(plan.home) / f"{plan.role}.log"
        # How its lives have ended, since `forget`.
        self.codes: list[int] = []
        self._watching = asyncio.ensure_future(self._watch())

    @property
    def role(self) -> str:
        """What it does."""
        return self._plan.role

    @property
    def pid(self) -> int:
        """Of its last life."""
        assert self._living is not None
        return self._living.pid

    def forget(self) -> None:
        """What it has said and how it has died so far is of no interest any more."""
        self._log.write_bytes(b"")
        self.codes.clear()

    def alarms(self) -> list[str]:
        """What it has said since that none may say, with what followed the first of it."""
        said = self._log.read_text()
        found = re.search(r"^(CRITICAL|ERROR|Traceback)", said, re.MULTILINE)
        return [said[found.start() :][:ALARM_LENGTH_MAX]] if found else []

    async def up(self) -> int:
        """Has it live, and be started again whenever it dies; its pid."""
        self._wanted.set()
        async with asyncio.timeout(START_TIMEOUT_S):
            await self._up.wait()
        return self.pid

    def stay_down(self) -> None:
        """When it dies it stays dead, until `up`."""
        self._wanted.clear()

    async def died(self) -> None:
        """Waits for it to be dead."""
        await eventually(lambda: not self._up.is_set(), what=f"the death of {self.role}")

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        if self._living is not None:
            self._living.send_signal(number)

    async def stop(self) -> None:
        """SIGSTOP; returns when it has stopped."""
        self.send(signal.SIGSTOP)
        state = Path(f"/proc/{self.pid}/stat")
        await eventually(
            lambda: state.read_text().rpartition(")")[2].split()[0] == "T",
            what=f"{self.role} stopped",
        )

    async def close(self) -> None:
        """Ends it for good. Who is being born is waited for: it has to be killed, too."""
        self._closing = True
        self._wanted.set()
        while not self._watching.done():
            self.send(signal.SIGKILL)
            await asyncio.wait({self._watching}, timeout=POLL_S)

    async def _watch(self) -> None:
        while True:
            await self._wanted.wait()
            if self._closing:
                return
            self._living = self._born()
            self._up.set()
            code = await self._living.ended()
            self._up.clear()
            if not self._closing:
                self.codes.append(code)
                self._on_death(self.role)
            if code == CANNOT_START:
                self._wanted.clear()

    def _born(self) -> Child:
        with self._log.open("ab") as log:
            plan = json.dumps(asdict(self._plan))
            return self._nursery.bear(HOST, [plan], log.fileno(), os.environ)


class FailMesh:
    """A coordinator, the ledger and the order over books of their own."""

    def __init__(self, home: Path, nursery: Nursery, settings: Settings) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.settings = settings
        # What a look at the books found wrong at the moment of a death.
        self.on_death: Callable[[str], None] = lambda role: None
        self._nursery = nursery
        self._token = 0
        self._trade = 0

    def rows(self, service: str, query: str) -> list[tuple[Any, ...]]:
        """See HasBooks."""
        return rows_of(self.book(service), query)

    def book(self, service: str) -> Path:
        """The SQLite file of a role."""
        return self.home / f"{service}.db"

    def next_trade(self) -> str:
        """A trade that nobody has paid yet."""
        self._trade += 1
        return f"t{self._trade}"

    async def __aenter__(self) -> Self:
        self._held = {role: _reserved() for role in ROLES}
        ports = {role: held.getsockname()[1] for role, held in self._held.items()}
        self.hosts = {
            role: Host(
                HostPlan(role, str(self.home), ports, self.settings),
                self._nursery,
                lambda role: self.on_death(role),
            )
            for role in ROLES
        }
        for role, host in self.hosts.items():
            await host.up()
            await serving(ports[role])
        self._channel = channel_to(ports[COORDINATOR])
        self.coordinator = coordinator_service_pb2_grpc.CoordinatorServiceStub(self._channel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()
        for host in self.hosts.values():
            await host.close()
        for held in self._held.values():
            held.close()

    def arm(self, role: str, point: str, occurrence: int, victim: str) -> None:
        """Has `victim` killed when `role` is at `point` so often, from now on."""
        self._token += 1
        forget_passed(self.home)
        Armed(self._token, role, point, occurrence, victim).write(self.home)

    def disarm(self) -> bool:
        """Nobody is killed any more; whether somebody would have been."""
        armed = Armed.read(self.home) is not None
        disarm(self.home)
        return armed

    def watch(self) -> None:
        """Notes points anew, and kills nobody."""
        forget_passed(self.home)

    def has_lost_somebody(self) -> bool:
        """Whether one of its hosts has died in this play."""
        return any(host.codes for host in self.hosts.values())

    def passed(self) -> list[tuple[str, str]]:
        """Who came to which point, in order."""
        return passed_in(self.home)
