"""Wall clocks that can be moved, one for each process, by libfaketime where it is installed.

Its monotonic clock is left alone. The offset stands in a file that the library reads again
at each look at the clock.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from services.launcher.home import write_atomically

PLACES = ("lib/*/faketime", "lib/faketime", "lib64/faketime", "local/lib/faketime")
NAME = "libfaketimeMT.so.1"
PROBE = "import threading, time; threading.Event().wait(0.01); print(int(time.time()))"
PROBE_TIMEOUT_S = 10.0
# By how much the probe's clock is moved, and how far from that what it prints may be.
PROBE_AHEAD_S, PROBE_SLACK_S = 1_000, 60


def find_library() -> str | None:
    """Where libfaketime is; None when it is not installed, or does not work here."""
    found = [path for place in PLACES for path in sorted(Path("/usr").glob(f"{place}/{NAME}"))]
    return str(found[0]) if found and works(str(found[0])) else None


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks of a mesh; `library` is that of libfaketime."""

    library: str
    home: Path

    def environment(self, name: str) -> dict[str, str]:
        """With what a process sees its own clock."""
        self.home.mkdir(exist_ok=True)
        self.move(name, 0.0)
        return _environment(self.library, self._file(name))

    def move(self, name: str, offset_s: float) -> None:
        """From now on the process sees the machine's time and so much more. Raises OSError."""
        write_atomically(self._file(name), f"{offset_s:+f}\n".encode())

    def _file(self, name: str) -> Path:
        return self.home / name


def _environment(library: str, file: Path) -> dict[str, str]:
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        # Or every timed wait is over at once, and whoever waits for Python's lock spins.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        # The older name, and the newer one.
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def works(library: str) -> bool:
    """Whether a process that is started with it sees another time.

    A library that cannot be loaded is no error: ld.so goes on without it (ld.so(8), LD_PRELOAD).
    """
    try:
        printed = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={
                **os.environ,
                **_environment(library, Path(os.devnull)),
                "FAKETIME": f"+{PROBE_AHEAD_S}",
            },
            capture_output=True,
            check=True,
            timeout=PROBE_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    now_s = time.time()  # noqa: TID251 - what is looked at here is a wall clock
    return printed.strip().isdigit() and abs(int(printed) - now_s - PROBE_AHEAD_S) < PROBE_SLACK_S


def sleep(seconds: float) -> None:
    """In place of `time.sleep`, which libfaketime 0.9.10 fails.

    Python asks for an absolute monotonic time there, and the library refuses that.
    """
    select.select((), (), (), seconds)
