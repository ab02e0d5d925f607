"""The way to etcd: which member, with which token, and where to turn after a failure.

Every call carries `hasleader`: a member that lost its leader then ends the call instead
of leaving us on a watch that will never speak (etcd clientv3.WithRequireLeader).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from discovery.backoff import Clock, backoff_s
from discovery.etcd_auth import TokenKeeper
from discovery.etcd_route import Route
from discovery.etcd_types import RejectedError, UnauthenticatedError, UnavailableError
from discovery.transport import Metadata, Method, Stream, Transport

_HAS_LEADER: Metadata = (("hasleader", "true"),)

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class EtcdChannel:
    """One connection at a time, along `route`.

    After a call that nobody answered the next one goes another way; when none is left, calls
    fail at once for a moment, so that many of them cost no more than one. Opens nothing until
    used, and belongs to the event loop on which it is used first. `tokens` is None where
    nobody signs in.
    """

    def __init__(
        self,
        route: Route,
        *,
        request_timeout_s: float,
        tokens: TokenKeeper | None,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._route = route
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._request_timeout_s = request_timeout_s
        self._tokens = tokens
        self._turn = 0
        self._transport: Transport | None = None
        # After a failure, where there is nobody else to turn to, calls wait for the
        # connection that gRPC keeps trying to make, instead of each failing in turn.
        self._patient = False
        # Failures in a row; once each member has had its turn all calls rest for a while.
        self._misses = 0
        self._rests_until = -math.inf
        self._last_failure = ""
        self._retired: set[asyncio.Task[None]] = set()
        self._closed = False

    async def call(self, method: Method[_Request, _Reply], request: _Request) -> _Reply:
        """One unary call. Raises EtcdError.

        It takes `request_timeout_s` at most, and where the token had ended as much again for
        signing in and for the second try.
        """
        try:
            return await self._call(method, request)
        except UnauthenticatedError:
            if self._tokens is None:
                raise
        # The token had ended; this time a new one goes with it.
        return await self._call(method, request)

    async def _call(self, method: Method[_Request, _Reply], request: _Request) -> _Reply:
        async with self._using() as (transport, metadata):
            reply = await transport.call(
                method,
                request,
                timeout_s=self._request_timeout_s,
                metadata=metadata,
                patient=self._patient,
            )
        self._patient, self._misses = False, 0
        return reply

    @asynccontextmanager
    async def stream(self, method: Method[Any, Any]) -> AsyncIterator[Stream]:
        """One bidirectional call, ended on leaving. Raises EtcdError.

        It has no deadline, being meant to last: who uses it bounds each exchange. An
        EtcdError that leaves the block is taken as news of the connection.
        """
        async with self._using() as (transport, metadata):
            stream = transport.stream(method, metadata=metadata, patient=self._patient)
            try:
                yield stream
            finally:
                await stream.close()

    async def close(self) -> None:
        """Closes the connection; calls under way fail with UnavailableError."""
        self._closed = True
        if self._transport is not None:
            await self._transport.close()
        if self._retired:
            await asyncio.wait(self._retired)

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[tuple[Transport, Metadata]]:
        """The connection to use now; learns from the EtcdError that its use ends with."""
        transport, token = self._current(), ""
        try:
            if self._tokens is not None:
                token = await self._tokens.token(transport)
            yield transport, (*_HAS_LEADER, ("token", token)) if token else _HAS_LEADER
        except UnavailableError as error:
            self._move_on(transport, str(error))
            raise
        except UnauthenticatedError:
            if self._tokens is not None:
                self._tokens.forget(token)
            raise

    def _current(self) -> Transport:
        if self._closed:
            raise UnavailableError("the client is closed")
        if self._clock() < self._rests_until:
            raise UnavailableError(f"no member of etcd answers: {self._last_failure}")
        if self._transport is None:
            try:
                self._transport = self._route.connect(self._turn)
            except (OSError, ValueError) as error:
                raise RejectedError(f"cannot connect: {error}") from None
        return self._transport

    def _move_on(self, transport: Transport, failure: str) -> None:
        # Whoever fails late on a connection already left behind must not skip the next.
        if transport is not self._transport or self._closed:
            return
        if not self._route.renewable:
            self._patient = True
            return
        self._turn += 1
        self._transport = None
        self._misses, self._last_failure = self._misses + 1, failure
        rounds = self._misses // self._route.members
        if rounds:
            self._rests_until = self._clock() + backoff_s(rounds, self._rng)
        closing = asyncio.ensure_future(transport.close())
        self._retired.add(closing)
        closing.add_done_callback(self._retired.discard)
