"""Wall clocks that are moved, where libfaketime is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.clocks import Clocks, find_library, works
from tests.support.require import lacking

OFFSET_S = 3_600
# Waits for a line before each look at both clocks; sleeps in between, as services do.
LOOKS = """
import sys, time
from tests.chaos.clocks import sleep
for _ in sys.stdin:
    sleep(0.01)
    print(time.time(), time.monotonic(), flush=True)
"""


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    """Skips the test where there is no library."""
    library = find_library()
    if library is None:
        lacking("faketime")
    return Clocks(library, tmp_path / "clocks")


def test_a_clock_is_moved_under_a_running_process_and_no_interval_with_it(clocks: Clocks) -> None:
    """The wall clock jumps there and back, the monotonic one goes on."""
    environment = {**os.environ, **clocks.environment("ledger-0")}
    with subprocess.Popen(
        [sys.executable, "-c", LOOKS],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def look() -> tuple[float, float]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            wall_s, monotonic_s = process.stdout.readline().split()
            return float(wall_s), float(monotonic_s)

        looks = [look()]
        for offset_s in (OFFSET_S, -OFFSET_S, 0):
            clocks.move("ledger-0", offset_s)
            looks.append(look())
        assert process.stdin is not None
        process.stdin.close()
    behind = [wall_s - monotonic_s for wall_s, monotonic_s in looks]
    moved = [round((each - behind[0]) / OFFSET_S) for each in behind]
    assert [0, 1, -1, 0] == moved
    monotonic = [monotonic_s for _, monotonic_s in looks]
    assert monotonic == sorted(monotonic)
    assert monotonic[-1] - monotonic[0] < OFFSET_S


def test_a_library_that_is_not_loaded_moves_no_clock() -> None:
    """What ld.so passes over would leave every clock as it is, and a run that says otherwise."""
    assert not works("/nonexistent.so")
