"""What a channel tells about its calls, to whoever counts them.

The machinery calls these Protocols at fixed moments; `NoMetrics` is the default and costs
an empty method. They are told of codes, durations, targets and addresses, never of
metadata or messages: what is not handed over cannot leak into a dashboard.

A *call* is what the caller made; an *attempt* is one try of it at one endpoint, of which
retries and hedges make several. The duration of a stream is its whole life.

Implementations must not raise or block, and be safe to call from several threads.
`balancer.metrics_prometheus` is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import grpc


class EndpointMetrics(Protocol):
    """One endpoint of one target, from connect to `left`."""

    def attempt_started(self) -> None:
        """A call, or a try of one, was handed to the connection."""

    def attempt_ended(self, code: grpc.StatusCode, latency_s: float) -> None:
        """One that had started ended with `code` after `latency_s`."""

    def ejected(self) -> None:
        """Outlier ejection or a circuit breaker took it out."""

    def state_changed(self, state: grpc.ChannelConnectivity) -> None:
        """Its connection is now in `state`."""

    def left(self) -> None:
        """Its connection is closed; its series may go. Called once, last."""


class ChannelMetrics(Protocol):
    """One channel, until `closed`."""

    def call_started(self) -> None:
        """The caller made a call."""

    def call_ended(self, code: grpc.StatusCode, latency_s: float) -> None:
        """A call that had started ended with `code` after `latency_s`, its waits included."""

    def wait_began(self) -> None:
        """A call found no endpoint and waits."""

    def wait_ended(self) -> None:
        """It waits no more, for better or worse."""

    def retried(self) -> None:
        """A call is tried again after an attempt that failed."""

    def hedged(self) -> None:
        """A call is tried a second time while the first attempt is still under way."""

    def endpoint(self, address: str) -> EndpointMetrics:
        """Who is told about the connection to `address`. Kept by it, not asked per call."""

    def closed(self) -> None:
        """The channel is closed; its series may go. Called once, last."""


class Metrics(Protocol):
    """Who counts, for any number of channels."""

    def channel(self, target: str) -> ChannelMetrics:
        """Who is told about a channel to `target`."""


class NoMetrics:
    """Counts nothing: a Metrics, ChannelMetrics and EndpointMetrics in one."""

    __slots__ = ()

    def channel(self, target: str) -> NoMetrics:  # noqa: ARG002 - all are the same to it
        """Itself."""
        return self

    def endpoint(self, address: str) -> NoMetrics:  # noqa: ARG002 - all are the same to it
        """Itself."""
        return self

    def call_started(self) -> None:
        """Nothing."""

    def call_ended(self, code: grpc.StatusCode, latency_s: float) -> None:
        """Nothing."""

    def attempt_started(self) -> None:
        """Nothing."""

    def attempt_ended(self, code: grpc.StatusCode, latency_s: float) -> None:
        """Nothing."""

    def wait_began(self) -> None:
        """Nothing."""

    def wait_ended(self) -> None:
        """Nothing."""

    def retried(self) -> None:
        """Nothing."""

    def hedged(self) -> None:
        """Nothing."""

    def ejected(self) -> None:
        """Nothing."""

    def state_changed(self, state: grpc.ChannelConnectivity) -> None:
        """Nothing."""

    def left(self) -> None:
        """Nothing."""

    def closed(self) -> None:
        """Nothing."""


NO_METRICS: Final = NoMetrics()


class Running:
    """A call or an attempt under way. `report` hears once how it ended, and after how long."""

    __slots__ = ("_began_s", "_report")

    def __init__(self, report: Callable[[grpc.StatusCode, float], None]) -> None:
        self._report: Callable[[grpc.StatusCode, float], None] | None = report
        self._began_s = time.monotonic()

    def ended(self, code: grpc.StatusCode) -> None:
        """Says that it is over. May be repeated."""
        report, self._report = self._report, None
        if report is not None:
            report(code, time.monotonic() - self._began_s)
