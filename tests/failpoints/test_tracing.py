"""What becomes of faults from outside where the machine does not allow them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.faults import injected, untraceable
from tests.support.require import VARIABLE, require

REFUSAL = "attach: ptrace(PTRACE_SEIZE, 1): Operation not permitted"


@dataclass
class Myself:
    """A process that has a log file open."""

    pid: int


@pytest.fixture
def forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strace that may be run, and not be attached to anybody."""
    program = tmp_path / "strace"
    program.write_text(f"#!/bin/sh\necho '{REFUSAL}' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.usefixtures("forbidden")
async def test_where_nobody_may_be_traced_the_test_is_skipped(tmp_path: Path) -> None:
    """It says why, and does not fail."""
    with (tmp_path / "mine.db-wal").open("wb"), pytest.raises(pytest.skip.Exception) as skipped:
        async with injected(Myself(os.getpid()), "fdatasync", "error=EIO:when=1"):
            pytest.fail("nothing is injected")
    assert f"strace may not trace: {REFUSAL}" == str(skipped.value)


@pytest.mark.usefixtures("forbidden")
async def test_where_nobody_may_be_traced_a_sweep_knows_before_it_begins() -> None:
    """What it leaves out it can name, with the reason."""
    assert f"strace may not trace: {REFUSAL}" == await untraceable()


async def test_where_somebody_may_be_traced_nothing_is_left_out() -> None:
    """The look is at a process that is no child of strace, and it ends that process."""
    require("strace")
    assert "" == await untraceable()


async def test_where_there_is_no_strace_that_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not looked for anywhere else."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no strace" == await untraceable()
