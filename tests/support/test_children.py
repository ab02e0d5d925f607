"""Processes from the nursery are like those that are started alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.children import Child, Nursery
from tests.support.waiting import eventually

WITHIN_S = 20.0
# It says which arguments and which environment it has, and goes on as it is told.
MODULE = "tests.support.newborn"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """One for all."""
    with closing(Nursery("asyncio")) as nursery:
        yield nursery


def born(nursery: Nursery, log: Path, *arguments: str) -> Child:
    """A child that writes to `log`."""
    with log.open("ab") as file:
        return nursery.bear(MODULE, arguments, file.fileno(), {"WORD": "heard"})


def said(log: Path) -> Sequence[str]:
    """Its lines."""
    return log.read_text(encoding="utf-8").splitlines()


def test_a_child_is_what_python_m_is(nursery: Nursery, tmp_path: Path) -> None:
    """Its arguments, environment, files and exit code; and it has no other file open."""
    log = tmp_path / "log"
    assert 7 == born(nursery, log, "exit", "7").wait(WITHIN_S)
    assert ["__main__ exit 7", "{'WORD': 'heard'}", "[0, 1, 2]"] == said(log)


def test_an_error_that_nobody_catches_is_logged(nursery: Nursery, tmp_path: Path) -> None:
    """And the code is 1; the nursery bears the next one."""
    log = tmp_path / "log"
    assert 1 == born(nursery, log, "exit", "x").wait(WITHIN_S)
    assert said(log)[-1].startswith("ValueError")
    assert 0 == born(nursery, log, "exit", "0").wait(WITHIN_S)


async def test_whoever_waits_hears_of_a_kill(nursery: Nursery, tmp_path: Path) -> None:
    """Also when somebody else has asked before whether it lives."""
    child = born(nursery, tmp_path / "log", "stay")
    assert child.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0)
    waiting = asyncio.ensure_future(child.ended())
    await asyncio.sleep(0)
    child.kill()
    assert -signal.SIGKILL == child.wait(WITHIN_S)
    assert -signal.SIGKILL == await waiting == await child.ended() == child.poll()
    # There is nobody any more.
    child.terminate()


@pytest.mark.parametrize("how", ["closed", "killed"])
async def test_with_the_nursery_its_children_end(tmp_path: Path, how: str) -> None:
    """However it ends."""
    nursery = Nursery()
    child = born(nursery, tmp_path / "log", "stay")
    if how == "killed":
        os.kill(nursery.pid, signal.SIGKILL)
    nursery.close()
    assert child.wait(WITHIN_S) == -signal.SIGKILL
    left = Path(f"/proc/{child.pid}")
    await eventually(lambda: not left.exists(), WITHIN_S, what="the end of the child")
