"""One endpoint's place in the registry: what its owner wants, and what is known to be there."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from dataclasses import replace
from typing import Final

from discovery.endpoint import (
    Endpoint,
    MalformedEndpointError,
    decode_value,
    encode_key,
    encode_value,
)

# How long pause and deregister wait for the registry; it is done in any case.
DEREGISTER_TIMEOUT_S: Final = 3.0


class Wanted(enum.Enum):
    """What the registry should hold."""

    PRESENT = enum.auto()
    PAUSED = enum.auto()
    LEAVING = enum.auto()


class Registration:
    """One endpoint's place in the registry. Made by `Registrar.register`.

    `registered` is set while etcd is known to hold the endpoint as it now is, `gone`
    while it is known not to.
    """

    def __init__(self, service: str, endpoint: Endpoint, wake: asyncio.Event) -> None:
        self.registered = asyncio.Event()
        self.gone = asyncio.Event()
        self.key = encode_key(service, endpoint)
        self.wanted = Wanted.PRESENT
        # The leases the key may stand under: after a put without an answer, two.
        self.leases: set[int] = set()
        self._value = encode_value(endpoint)
        self._endpoint = endpoint
        self._wake = wake

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint as it should be in the registry."""
        return self._endpoint

    @property
    def value(self) -> bytes:
        """The value that should be in the registry."""
        return self._value

    @property
    def paused(self) -> bool:
        """Whether it is kept out of the registry until `resume`."""
        return self.wanted is Wanted.PAUSED

    @property
    def settled(self) -> bool:
        """Nothing is left to do."""
        return (self.registered if self.wanted is Wanted.PRESENT else self.gone).is_set()

    async def update(self, endpoint: Endpoint) -> None:
        """Replaces the endpoint at the same address, in place. Returns at once.

        For example `update(replace(registration.endpoint, weight=3))`. Raises ValueError
        when the address differs, MalformedEndpointError.
        """
        if endpoint.address != self._endpoint.address:
            raise ValueError("another address is another registration")
        self._value, self._endpoint = encode_value(endpoint), endpoint
        if self.wanted is not Wanted.LEAVING:
            self._unsettle()

    async def drain(self) -> None:
        """Marks the endpoint as draining: no new work, please. Returns at once."""
        await self.update(replace(self._endpoint, draining=True))

    async def pause(self) -> None:
        """Takes the endpoint out of the registry until `resume`.

        Waits until it is gone, at most DEREGISTER_TIMEOUT_S. Does nothing to one that
        was deregistered.
        """
        if self.wanted is Wanted.PRESENT:
            self.wanted = Wanted.PAUSED
            self._unsettle()
        await self._until_gone()

    async def resume(self) -> None:
        """Puts a paused endpoint back, as it now is. Returns at once."""
        if self.wanted is Wanted.PAUSED:
            self.wanted = Wanted.PRESENT
            self._unsettle()

    async def deregister(self) -> None:
        """Takes the endpoint out of the registry, for good.

        Waits until it is gone, at most DEREGISTER_TIMEOUT_S; while etcd is away the
        registrar goes on trying, and in the end the lease expires.
        """
        if self.wanted is not Wanted.LEAVING:
            self.wanted = Wanted.LEAVING
            self._unsettle()
        await self._until_gone()

    def end(self) -> None:
        """The registrar is closed: there is nothing to wait for any more."""
        self.wanted = Wanted.LEAVING
        self.registered.clear()
        self.gone.set()

    def succeed(self, former: Registration) -> None:
        """Takes the key over from one that was leaving."""
        self.leases = former.leases
        former.gone.set()

    def farewell(self, found: bytes) -> bytes | None:
        """What to write over `found` before the key is removed; None when it says so already.

        An endpoint that leaves on purpose says that it drains, so that readers can tell
        it from one whose lease was lost (see `discovery.removal`).
        """
        with contextlib.suppress(MalformedEndpointError):
            if decode_value(found).draining:
                return None
        return encode_value(replace(self._endpoint, draining=True))

    def adopt(self, found: bytes) -> bool:
        """Whether `found` is what should be there.

        A mark of draining that an operator set or took away under our lease is taken over
        and so outlives the lease; any other change is not ours.
        """
        if found == self._value:
            return True
        with contextlib.suppress(MalformedEndpointError):
            endpoint = decode_value(found)
            if replace(self._endpoint, draining=endpoint.draining) == endpoint:
                self._value, self._endpoint = encode_value(endpoint), endpoint
                return True
        return False

    def _unsettle(self) -> None:
        self.registered.clear()
        self.gone.clear()
        self._wake.set()

    async def _until_gone(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEREGISTER_TIMEOUT_S):
                await self.gone.wait()
