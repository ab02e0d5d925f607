from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from services.launcher import etcd, processes
from services.launcher.child import restart_delay_s
from services.launcher.processes import Identity
from services.launcher.stage import qr_lines
from services.launcher.supervisor import shorten


def test_first_restart_is_at_once_then_delays_double() -> None:
    """Delays are 0, 0.2, 0.4 ... and never more than 5 s."""
    assert [restart_delay_s(n) for n in (1, 2, 3, 4, 6, 7, 1000)] == [0, 0.2, 0.4, 0.8, 3.2, 5, 5]


def test_long_log_is_moved_aside(tmp_path: Path) -> None:
    """A log over its limit is copied and emptied under its writer, who goes on at the start."""
    log = tmp_path / "order-0.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 11)
        shorten(log, bytes_max=10)
        writer.write(b"new")
    assert ((tmp_path / "order-0.log.1").read_bytes(), log.read_bytes()) == (b"x" * 11, b"new")
    shorten(log, bytes_max=10)
    assert log.read_bytes() == b"new"


def test_identity_is_pid_and_birth() -> None:
    """A process is recognised while it lives; the same pid with another birth is not it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as one:
        identity = processes.identify(one.pid)
        assert identity is not None
        assert processes.alive(identity)
        assert processes.send(Identity(one.pid, "other"), signal.SIGKILL) is False
        assert processes.stop([identity], 10) == ()
        assert not processes.alive(identity)
    assert processes.identify(one.pid) is None


def test_etcd_options_of_the_environment_are_dropped() -> None:
    """ETCD_NAME in the environment would make etcd refuse its command line."""
    assert "ETCD_NAME" not in etcd.without_options({**os.environ, "ETCD_NAME": "x"})


def test_qr_code_is_square_in_half_blocks() -> None:
    """Every line is as wide as the code, and there are half as many, rounded up."""
    lines = qr_lines("tallystick:pay/1")
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines) == (len(lines[0]) + 1) // 2
    assert set("".join(lines)) <= set("█▀▄ ")
