"""`python -m tests.chaos.faked MODULE ARGUMENT...`: runs a service under libfaketime."""

from __future__ import annotations

import runpy
import sys
import time

from tests.chaos.clocks import sleep

if __name__ == "__main__":
    time.sleep = sleep  # type: ignore[assignment]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
