"""Crash points armed from the environment."""

from __future__ import annotations

import os
import signal

import pytest

from services import failpoints
from txn.crash_point import no_crash


def test_unarmed_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Production hands in the crash point that does nothing."""
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    assert no_crash is failpoints.crash_point()


def test_armed_kills_at_its_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As kill -9 would, and nowhere else."""
    killed: list[tuple[int, int]] = []
    monkeypatch.setenv(failpoints.VARIABLE, "after-vote")
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    crash = failpoints.crash_point()
    crash("after-decision")
    assert [] == killed
    crash("after-vote")
    assert [(os.getpid(), signal.SIGKILL)] == killed
