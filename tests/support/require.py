"""What a test needs of the machine: there, skipped by name, or, when demanded, a failure.

`TALLYSTICK_REQUIRE=grpcurl,etcd` names what must not be missing; CI names what it has
installed, so that nothing present is ever skipped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

VARIABLE = "TALLYSTICK_REQUIRE"
PLACES = (Path.home() / "go" / "bin",)


def require(program: str) -> Path:
    """The program's path; skips the test, or fails it when the program is demanded."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, PLACES)])
    if (found := shutil.which(program, path=path)) is not None:
        return Path(found)
    if program in os.environ.get(VARIABLE, "").split(","):
        pytest.fail(f"{program} is demanded by {VARIABLE} and is not here")
    pytest.skip(f"{program} is not installed")
