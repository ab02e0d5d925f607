"""Active health: one endpoint says over a Watch stream whether it serves.

gRFC A17 and grpc/doc/health-checking.md, the client's side. A connection that stands says
nothing about the service behind it; so nothing is sent to a connected endpoint before its
first answer, nor while the answer is not SERVING. A server without the health service
counts as healthy. The stream has no deadline, since silence means that nothing has
changed: a connection that is dead is noticed by its keepalive, and a server that never
gave the first answer by `answer_timeout_s`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from balancer.errors import InvalidConfigError
from balancer.health_wire import (
    WATCH_METHOD,
    MalformedReplyError,
    ServingStatus,
    decode_response,
    encode_request,
)

SERVICE_NAME_BYTES_MAX: Final = 4096

_log = logging.getLogger(__name__)


class Health(Enum):
    """What is known of an endpoint that is connected. Only SERVING ones get calls."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """Whether and how endpoints are asked; `healthCheckConfig` of gRPC's service config.

    With `enabled` off nobody is asked.
    `service` is the name the servers know; "" asks for the server as a whole.
    `answer_timeout_s` is how long the first answer of a stream may take. Streams that end
    are opened again after `initial_backoff_s`, which doubles up to `max_backoff_s` while
    no answer comes.

    Raises InvalidConfigError.
    """

    enabled: bool = True
    service: str = ""
    answer_timeout_s: float = 5.0
    initial_backoff_s: float = 0.2
    max_backoff_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("answer_timeout_s", "initial_backoff_s", "max_backoff_s"):
            if not getattr(self, name) > 0:
                raise InvalidConfigError(f"{name} is not above 0: {getattr(self, name)}")
        if self.initial_backoff_s > self.max_backoff_s:
            raise InvalidConfigError("initial_backoff_s is above max_backoff_s")
        try:
            size = len(self.service.encode())
        except UnicodeEncodeError as error:
            raise InvalidConfigError(f"service is not UTF-8: {error}") from None
        if size > SERVICE_NAME_BYTES_MAX:
            raise InvalidConfigError(f"service is longer than {SERVICE_NAME_BYTES_MAX} bytes")


class StreamOpener(Protocol):
    """The part of a grpc.aio.Channel to one endpoint that is needed here."""

    def unary_stream(self, method: str, /) -> Callable[..., Any]:
        """The multicallable of `method`, with messages as bytes."""


class HealthWatch:
    """Follows the health of one endpoint from `start`, when connected, until `stop`.

    `health` and `reason`, which says why it is not SERVING, are those of this moment;
    `on_change` is called on the event loop whenever `health` differs from before, except
    by `stop`, whose caller knows.
    """

    def __init__(
        self,
        channel: StreamOpener,
        config: HealthConfig,
        on_change: Callable[[], None],
        *,
        address: str = "",
        rng: random.Random,
    ) -> None:
        self.health = Health.UNKNOWN
        self.reason = ""
        self._open = channel.unary_stream(WATCH_METHOD)
        self._request = encode_request(config.service)
        self._config = config
        self._on_change = on_change
        self._address = address
        self._rng = rng
        self._warned = False
        self._task: asyncio.Task[None] | None = None

    def follow(self, state: grpc.ChannelConnectivity) -> None:
        """Starts or stops as the connection's `state`, which has just changed, demands."""
        if state is grpc.ChannelConnectivity.READY:
            self.start()
        else:
            self.stop()

    def start(self) -> None:
        """Asks on a connection that has just come up. Does nothing if started already."""
        if self._task is None:
            self.reason = "no answer yet"
            self._task = asyncio.get_running_loop().create_task(self._follow())

    def stop(self) -> None:
        """Forgets: the connection is lost, and the next one knows nothing of this one."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.health, self.reason = Health.UNKNOWN, ""

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        silent = 0
        while True:
            began_at = loop.time()
            answers, why = await self._watch()
            if why is None:
                return
            silent = 0 if answers else silent + 1
            self._report(Health.NOT_SERVING, why)
            # Counted from the beginning: a stream that lived long is replaced at once,
            # and a server that ends each after one answer is still not stormed.
            await asyncio.sleep(max(0.0, began_at + self._backoff_s(silent) - loop.time()))

    async def _watch(self) -> tuple[int, str | None]:
        """Reads one stream to its end: the number of its answers, and why to open another."""
        call = self._open(self._request)
        answers = 0
        try:
            while True:
                reply = await self._read(call, first=not answers)
                if reply is grpc.aio.EOF:
                    return answers, "the health stream has ended"
                self._take(decode_response(reply))
                answers += 1
        except TimeoutError:
            return answers, f"no answer about its health in {self._config.answer_timeout_s:g} s"
        except MalformedReplyError as error:
            return 0, f"no health reply: {error}"
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._take_for_healthy()
                return answers, None
            return answers, f"the health stream failed: {error.code().name}: {error.details()}"
        finally:
            call.cancel()

    async def _read(self, call: Any, *, first: bool) -> Any:
        async with asyncio.timeout(self._config.answer_timeout_s if first else None):
            return await call.read()

    def _take(self, status: ServingStatus) -> None:
        if status is ServingStatus.SERVING:
            self._report(Health.SERVING, "")
        else:
            self._report(Health.NOT_SERVING, f"it says {status.name}")

    def _take_for_healthy(self) -> None:
        """Until the connection ends: the next server at this address may have the service."""
        if not self._warned:
            _log.warning("%s has no health service and counts as healthy", self._address)
            self._warned = True
        self._report(Health.SERVING, "")

    def _report(self, health: Health, reason: str) -> None:
        self.reason = reason
        if health is not self.health:
            self.health = health
            _log.debug("%s is %s: %s", self._address, health.name, reason or "healthy")
            self._on_change()

    def _backoff_s(self, silent: int) -> float:
        # The power is bounded as well: a float has no 2 ** 2000.
        grown_s = self._config.initial_backoff_s * 2.0 ** min(silent, 32)
        longest_s = min(grown_s, self._config.max_backoff_s)
        return self._rng.uniform(longest_s / 2, longest_s)
