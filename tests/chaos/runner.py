"""`python -m tests.chaos.runner MODULE ARGUMENT...`: runs a service under libfaketime.

With a planted bug where the environment names one of those of the simulator: a checker is
believed when it finds them in real processes, too.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from contextlib import ExitStack

from tests.chaos.clocks import sleep

MUTANT = "TALLYSTICK_CHAOS_MUTANT"


def _run() -> None:
    with ExitStack() as stack:
        if name := os.environ.get(MUTANT):
            from tests.sim import mutants

            stack.enter_context(mutants.planted(name))
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    time.sleep = sleep  # type: ignore[assignment]
    del sys.argv[0]
    _run()
