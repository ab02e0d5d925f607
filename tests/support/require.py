"""What a test needs of the machine: there, skipped by name, or, when demanded, a failure.

`TALLYSTICK_REQUIRE=grpcurl,etcd` names what must not be missing; CI names what it has
installed, so that nothing present is ever skipped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

VARIABLE = "TALLYSTICK_REQUIRE"
PLACES = (Path.home() / "go" / "bin",)


def require(program: str, *, name: str | None = None) -> Path:
    """The program's path; skips the test, or fails it when the program is demanded.

    It is spoken of, and demanded, by `name` where its file is called something else.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, PLACES)])
    if (found := shutil.which(program, path=path)) is None:
        lacking(name or program)
    return Path(found)


def lacking(name: str, why: str = "is not installed") -> NoReturn:
    """Skips the test, or fails it when `name` is demanded."""
    if name in os.environ.get(VARIABLE, "").split(","):
        pytest.fail(f"{name} is demanded by {VARIABLE} and {why}")
    pytest.skip(f"{name} {why}")
