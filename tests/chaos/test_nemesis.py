"""What a nemesis has done is what took hold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.launcher import processes
from services.launcher.processes import Identity, identify
from tests.chaos.faults import CLIENT, Fault, Kind, Victim
from tests.chaos.nemesis import Nemesis
from tests.chaos.rig import Rig

HERE, GONE = Victim(CLIENT, 0), Victim("order", 0)


class Sleeper:
    """A crowd of one process that does nothing."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def identity(self, victim: Victim) -> Identity | None:
        """See Victims."""
        return identify(self.process.pid) if self.process.poll() is None else None

    def kill(self, victim: Victim) -> Identity | None:
        """See Victims."""
        raise NotImplementedError

    def back(self, victim: Victim, killed: Identity) -> bool:
        """See Victims."""
        raise NotImplementedError


@pytest.fixture
def crowd() -> Iterator[Sleeper]:
    """Ended whatever was done to it."""
    sleeper = Sleeper()
    yield sleeper
    sleeper.process.kill()
    sleeper.process.communicate()


async def test_only_who_was_there_was_stopped(tmp_path: Path, crowd: Sleeper) -> None:
    """Of a client that runs and a service that does not; and it goes on afterwards."""
    nemesis = Nemesis(Rig(tmp_path, clocks=None, clients=1), crowd)
    await nemesis.run([Fault(Kind.STOP, (GONE, HERE), 0.0, 0.1)])
    (done,) = nemesis.record.done
    assert (HERE,) == done.fault.victims
    assert processes.alive(identify(crowd.process.pid))  # type: ignore[arg-type]
    assert (0, True) == (nemesis.record.idle, done.ended_s is not None)


async def test_a_fault_that_hit_nobody_is_none(tmp_path: Path, crowd: Sleeper) -> None:
    """It is counted apart: the time without a fault goes on."""
    nemesis = Nemesis(Rig(tmp_path, clocks=None, clients=1), crowd)
    await nemesis.run([Fault(Kind.STOP, (GONE,), 0.0, 0.1)])
    assert ([], 1) == (nemesis.record.done, nemesis.record.idle)
