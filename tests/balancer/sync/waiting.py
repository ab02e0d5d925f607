"""Waits of threads on conditions, with a deadline and never for a fixed time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc

from balancer.sync_channel import BalancedSyncChannel
from tests.balancer.echo import UNARY_UNARY

TIMEOUT_S = 10.0
POLL_S = 0.005


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Returns when `condition()` is true."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not hold within {TIMEOUT_S:g} s"
        time.sleep(POLL_S)


def reaches(channel: BalancedSyncChannel, state: grpc.ChannelConnectivity) -> None:
    """Returns when `channel` is in `state`."""
    eventually(lambda: channel.get_state() is state, f"{state} of {channel!r}")


def served_by(channel: grpc.Channel, calls: int) -> dict[str, int]:
    """How many of so many calls each server answered."""
    unary: Any = channel.unary_unary(UNARY_UNARY)
    responses: list[bytes] = [unary(b"x", timeout=TIMEOUT_S) for _ in range(calls)]
    return dict(Counter(response.partition(b":")[0].decode() for response in responses))


def only(channel: grpc.Channel, *names: str) -> None:
    """Returns when the calls are spread over exactly these servers."""
    eventually(lambda: set(served_by(channel, 6)) == set(names), f"calls to {names} only")


def in_thread(work: Callable[[], object]) -> threading.Thread:
    """Runs `work` beside the test."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
