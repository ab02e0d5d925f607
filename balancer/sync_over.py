"""What a call of a thread answers once it has ended, however it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from balancer.grpc_types import Future


class Over(grpc.Call, Future):
    """A call that has ended, and was over before anybody held it."""

    def is_active(self) -> bool:
        """False."""
        return False

    def time_remaining(self) -> float:
        """None is left."""
        return 0.0

    def add_callback(self, callback: Callable[[], None]) -> bool:  # noqa: ARG002 - too late for it
        """False: it has ended."""
        return False

    def cancel(self) -> bool:
        """False: it has ended."""
        return False

    def running(self) -> bool:
        """False."""
        return False

    def done(self) -> bool:
        """True."""
        return True

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Calls `fn(self)` at once."""
        fn(self)
