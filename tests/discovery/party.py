"""One program's use of etcd: it registers, and it hears who else does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from discovery import (
    Endpoint,
    EtcdClient,
    EtcdClientConfig,
    EtcdResolver,
    EtcdResolverConfig,
    Registrar,
    Registration,
    encode_value,
)
from tests.discovery.helpers import WAIT_S, Recorder, happens
from tests.support.waiting import eventually

SERVICE = "tallystick/ledger"
TTL_S = 2.0
CHECK_EVERY_S = 0.1
_LOOK_EVERY_S = 0.05


class Party:
    """A client with a registrar and a resolver on it; `heard` listens to SERVICE."""

    def __init__(
        self,
        endpoints: Sequence[str],
        config: EtcdClientConfig | None = None,
        *,
        resolver_config: EtcdResolverConfig | None = None,
        ttl_s: float = TTL_S,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        self.client = EtcdClient(endpoints, config=config)
        self.registrar = Registrar(self.client, ttl_s, check_every_s=check_every_s)
        self.resolver = EtcdResolver(self.client, config=resolver_config)
        self.heard = Recorder()
        self.resolver.subscribe(SERVICE, self.heard)

    async def register(self, address: str) -> Registration:
        """Registers `address` for SERVICE and waits until it is there."""
        registration = await self.registrar.register(SERVICE, Endpoint(address))
        await happens(registration.registered)
        return registration

    async def hears_of(self, *addresses: str, timeout_s: float = WAIT_S) -> None:
        """Waits until all of these are heard, whoever else there may be."""
        await eventually(lambda: set(addresses) <= set(self.heard.addresses), timeout_s)

    async def close(self) -> None:
        """Leaves the registry, and closes everything."""
        await self.registrar.close()
        await self.resolver.close()
        await self.client.close()


def key_of(address: str) -> str:
    """Where an endpoint of SERVICE stands in etcd."""
    return f"{SERVICE}/{address}"


def value_of(address: str) -> bytes:
    """What stands there, as somebody else may have written it."""
    return encode_value(Endpoint(address))


async def stays(condition: Callable[[], object], for_s: float) -> None:
    """Looks for `for_s` whether `condition()` is true all the time; fails when not."""
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        assert condition()
        await asyncio.sleep(_LOOK_EVERY_S)
