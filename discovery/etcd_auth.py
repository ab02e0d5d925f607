"""Signing in to etcd: one token for all calls, asked for again when etcd has forgotten it.

etcd's tokens end after minutes of silence, or for good after a restart, and no client
can know when: so a token is used until etcd refuses it, and then one caller renews it
while the others wait. etcd hashes the password with bcrypt at every try, so refused
credentials rest for a while; a fleet with a wrong password must not starve etcd.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from discovery.backoff import Clock
from discovery.etcd_types import UnauthenticatedError
from discovery.transport import Transport

SignIn = Callable[[Transport], Awaitable[str]]


class TokenKeeper:
    """Holds the token that `sign_in` gets."""

    def __init__(self, sign_in: SignIn, refused_pause_s: float, clock: Clock) -> None:
        self._sign_in = sign_in
        self._refused_pause_s = refused_pause_s
        self._clock = clock
        self._token: str | None = None
        self._refusal = ""
        self._rests_until = -math.inf
        self._asking: asyncio.Task[str] | None = None

    async def token(self, transport: Transport) -> str:
        """The token; signs in over `transport` when there is none, once for all who wait.

        Empty where etcd asks for none. Raises UnauthenticatedError, and any EtcdError.
        """
        if self._token is not None:
            return self._token
        if self._clock() < self._rests_until:
            raise UnauthenticatedError(self._refusal)
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask(transport))
            self._asking.add_done_callback(self._asked)
        # Shielded: one who no longer waits must not end it for the others.
        return await asyncio.shield(self._asking)

    def forget(self, token: str) -> None:
        """The `token` is no longer taken; whoever finds out late must not cost us the next."""
        if token == self._token:
            self._token = None

    async def _ask(self, transport: Transport) -> str:
        try:
            self._token = await self._sign_in(transport)
        except UnauthenticatedError as error:
            self._refusal = str(error)
            self._rests_until = self._clock() + self._refused_pause_s
            raise
        return self._token

    def _asked(self, asking: asyncio.Task[str]) -> None:
        self._asking = None
        # Looked at, so that asyncio does not report it when nobody waits any more.
        if not asking.cancelled():
            asking.exception()
