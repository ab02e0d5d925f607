"""The clients' processes: started, watched, started again, and read along with."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from services.launcher import processes
from services.launcher.processes import Identity, identify
from services.launcher.settings import REPOSITORY
from tests.chaos.faults import CLIENT, Victim
from tests.chaos.history import History
from tests.chaos.paying import stop_file
from tests.chaos.waiting import until

END_TIMEOUT_S = 170.0


class Crowd:
    """`processes` processes with `clients` clients between them."""

    def __init__(
        self, home: Path, etcd: Callable[[str], str], *, processes: int, clients: int, seed: int,
        think_s: float,
    ) -> None:  # fmt: skip
        """`etcd` says where a process finds it."""
        self._home = home
        self._etcd = etcd
        self._shares = [clients // processes + (n < clients % processes) for n in range(processes)]
        self._seed = seed
        self._think_s = think_s
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._killed: set[Identity] = set()
        # Ends of processes that nobody has killed.
        self.failures: list[str] = []

    @property
    def journals(self) -> list[Path]:
        """What each process writes."""
        return [self._journal(Victim(CLIENT, n).name) for n in range(len(self._shares))]

    def start(self) -> None:
        """Starts every process, and starts again those that end."""
        (self._home / "clients").mkdir(exist_ok=True)
        self._tasks = [asyncio.ensure_future(self._keep(n)) for n in range(len(self._shares))]
        for task in self._tasks:
            task.add_done_callback(self._note)

    def _note(self, task: asyncio.Task[None]) -> None:
        """A keeper that fails keeps nobody: that must not pass for a killed client."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(f"a keeper of clients failed: {error!r}")

    def identity(self, victim: Victim) -> Identity | None:
        """The process of that name that runs now."""
        process = self._running.get(victim.name)
        return None if process is None or process.poll() is not None else identify(process.pid)

    def kill(self, victim: Victim) -> Identity | None:
        """SIGKILL; the process that it hit, None when there is none."""
        identity = self.identity(victim)
        if identity is None or identity in self._killed:
            return None
        self._killed.add(identity)
        return identity if processes.send(identity, signal.SIGKILL) else None

    def back(self, victim: Victim, killed: Identity) -> bool:
        """Whether another process of that name runs."""
        return self.identity(victim) not in (None, killed)

    async def end(self) -> bool:
        """Asks all to end once everything is answered; whether they did in time."""
        self._stopping = True
        stop_file(self._home).touch()
        _, late = await asyncio.wait(self._tasks, timeout=END_TIMEOUT_S)
        return not late

    async def close(self) -> None:
        """Leaves nothing running."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    async def _keep(self, number: int) -> None:
        name = Victim(CLIENT, number).name
        while not self._stopping:
            process = self._running[name] = self._spawn(name, number)
            identity = identify(process.pid)
            await until(lambda: process.poll() is not None)  # noqa: B023
            code = process.returncode
            if identity not in self._killed and (code or not stop_file(self._home).exists()):
                self.failures.append(f"{name} ended by itself with {code}")
                await asyncio.sleep(1)  # one that cannot start is not started all the time

    def _spawn(self, name: str, number: int) -> subprocess.Popen[bytes]:
        """Not by the loop: uvloop forks, and in between fork and exec gRPC's threads come back."""
        with (self._home / "logs" / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.chaos.client", "--number", str(number)),
                    *("--clients", str(self._shares[number]), "--etcd", self._etcd(name)),
                    *("--home", str(self._home), "--journal", str(self._journal(name))),
                    *("--seed", str(self._seed), "--think-s", str(self._think_s)),
                ],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _journal(self, name: str) -> Path:
        return self._home / "clients" / f"{name}.jsonl"


class Reader:
    """Reads along with journals that are being written."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._offsets: dict[Path, int] = {}

    def read(self, paths: list[Path]) -> None:
        """Takes in the lines that are there since the last time."""
        for path in paths:
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._offsets[path] = self._offsets.get(path, 0) + len(whole)
            for line in whole.decode().splitlines():
                if line:
                    self.history.add(line)
