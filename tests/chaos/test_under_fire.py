"""The whole of it, for a few seconds: a real mesh, real kills, and a verdict."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.picture import draw
from tests.chaos.run import Bank, Options
from tests.chaos.verdict import complaints
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
DURATION_S = 8.0
UP_TIMEOUT_S = 120.0


@pytest.mark.timeout(600)
async def test_a_bank_under_fire_for_a_few_seconds(tmp_path: Path) -> None:
    """Every role is killed, payments go through, and the books are right at the end."""
    told: list[str] = []
    options = Options(home=tmp_path, seed=5, duration_s=DURATION_S, clients=10, think_s=0.2)
    run, story = await Bank(options, told.append).run()
    assert [] == run.findings.violations
    # How long it takes to converge is for a machine that is not busy with other tests, and I7
    # for a run that lasts longer than it takes to notice a fault.
    passed_over = ("too busy a machine", "never looked at: I7")
    assert [] == [each for each in complaints(run) if not each.startswith(passed_over)]
    assert told
    assert draw(story).startswith("<svg")


@pytest.mark.timeout(600)
def test_whoever_interrupts_it_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    """Neither processes nor the directory that it had made for itself."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": ".:generated"}
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", "--clients", "2", "--duration", "60"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        logs = "tallystick-chaos-*/**/*.log"
        asyncio.run(eventually(lambda: [*tmp_path.glob(logs)], UP_TIMEOUT_S))
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=UP_TIMEOUT_S)
    finally:
        run.kill()
    assert (130, "interrupted: the mesh is down, and nothing is proved\n") == (run.returncode, told)
    assert [] == [*tmp_path.iterdir()]
    assert [] == _processes_of(tmp_path)


def _processes_of(directory: Path) -> list[str]:
    """The command lines of whoever has to do with it."""
    lines = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(each.read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [line for line in lines if str(directory) in line and "pytest" not in line]
