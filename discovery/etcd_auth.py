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
        self._refused: UnauthenticatedError | None = None
        self._rests_until = -math.inf
        self._lock = asyncio.Lock()

    async def token(self, transport: Transport) -> str:
        """The token; signs in over `transport` when there is none.

        Empty where etcd asks for none. Raises UnauthenticatedError, and any EtcdError.
        """
        async with self._lock:
            if self._token is None:
                self._token = await self._ask(transport)
            return self._token

    def forget(self, token: str) -> None:
        """The `token` is no longer taken; whoever finds out late must not cost us the next."""
        if token == self._token:
            self._token = None

    async def _ask(self, transport: Transport) -> str:
        if self._refused is not None and self._clock() < self._rests_until:
            raise self._refused
        try:
            return await self._sign_in(transport)
        except UnauthenticatedError as error:
            self._refused = UnauthenticatedError(str(error))
            self._rests_until = self._clock() + self._refused_pause_s
            raise
