"""What `make` says where it cannot even begin."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", ["up", "demo", "ps", "logs", "down", "test", "lint"])
def test_a_python_that_is_not_there_is_named(target: str) -> None:
    """And what to do about it, whichever command it was."""
    done = subprocess.run(
        ["make", target, "PYTHON=no-such-python"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode
    assert done.stderr.startswith("no no-such-python here: install Python 3.11 or newer")
