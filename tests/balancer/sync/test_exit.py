"""How a program ends that uses a channel, tidily or not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.balancer.echo import HANG, UNARY_UNARY
from tests.balancer.sync.echo import EchoServer

EXIT_TIMEOUT_S = 30.0

_PRELUDE = f"""
import threading
from balancer.sync_channel import sync_channel
channel = sync_channel("static:///" + ADDRESS)
unary = channel.unary_unary({UNARY_UNARY!r})
assert unary(b"x", timeout=10) == b"server:x"
nobody = sync_channel("static:///127.0.0.1:1")
def hang():
    unary.future({HANG!r}, timeout=60).result()
"""

_ENDINGS = {
    "tidily": "channel.close(); nobody.close()",
    "without closing": "",
    "with a call in flight": f"call = unary.future({HANG!r}, timeout=60)",
    "with a call that waits": (
        "call = nobody.unary_unary('/a/b').future(b'', timeout=60, wait_for_ready=True)"
    ),
    "with a thread in a call": "threading.Thread(target=hang, daemon=True).start()",
    "by an exception": "raise SystemExit(0)",
}


@pytest.mark.parametrize("ending", _ENDINGS)
def test_a_program_ends(server: EchoServer, ending: str) -> None:
    """It ends by itself, with status 0 and nothing to complain about."""
    program = f"ADDRESS = {server.address!r}\n{_PRELUDE}\n{_ENDINGS[ending]}\n"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=EXIT_TIMEOUT_S,
    )
    assert (0, "") == (ended.returncode, ended.stderr)


def test_no_thread_outlives_close(server: EchoServer) -> None:
    """After close the program has the threads it had before, gRPC's included."""
    program = f"""
import threading, time
before = threading.active_count()
ADDRESS = {server.address!r}
{_PRELUDE}
channel.subscribe(print); waits = nobody.unary_unary("/a/b").future(b"", wait_for_ready=True)
channel.close(); nobody.close()
deadline = time.monotonic() + 10
while threading.active_count() > before and time.monotonic() < deadline:
    time.sleep(0.01)
assert threading.active_count() == before, threading.enumerate()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=EXIT_TIMEOUT_S,
    )
    assert (0, "") == (ended.returncode, ended.stderr)
