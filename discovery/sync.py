"""Discovery for threaded programs: the same guarantees, without an event loop of yours.

    with SyncRegistrar(["127.0.0.1:2379"]) as registrar, SyncResolver(...) as resolver:
        registrar.register("tallystick/ledger", Endpoint("10.0.0.7:50051"))
        print(resolver.resolve("tallystick/ledger").endpoints)

These are blocking faces of `Registrar` and `EtcdResolver`, which run unchanged on a loop in
a background thread. That loop speaks to etcd over gRPC's blocking channels, so nothing
of grpc.aio runs beside whatever else the process does with it.
"""

from __future__ import annotations

import concurrent.futures
from types import TracebackType
from typing import Final, Self

from discovery import sync_transport
from discovery.endpoint import Endpoint
from discovery.etcd_client import EtcdClient
from discovery.etcd_config import EtcdClientConfig
from discovery.etcd_resolver import EtcdResolver
from discovery.etcd_route import Endpoints
from discovery.loop_thread import LoopThread
from discovery.registrar import Registrar
from discovery.registration import Registration
from discovery.resolver import Listener, ResolverState, Subscription
from discovery.resolver_config import EtcdResolverConfig
from discovery.session import DEFAULT_TTL_S

RESOLVE_TIMEOUT_S: Final = 10.0


class SyncRegistration:
    """One endpoint's place in the registry. Made by `SyncRegistrar.register`.

    Every method is that of `discovery.Registration`.
    """

    def __init__(self, registration: Registration, thread: LoopThread) -> None:
        self._registration = registration
        self._thread = thread

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint as it should be in the registry."""
        return self._registration.endpoint

    @property
    def registered(self) -> bool:
        """Whether etcd is known to hold the endpoint as it now is."""
        return self._registration.registered.is_set()

    @property
    def paused(self) -> bool:
        """Whether it is kept out of the registry until `resume`."""
        return self._registration.paused

    def wait_registered(self, timeout_s: float) -> bool:
        """Waits until etcd holds it; False when that takes longer."""
        return self._thread.wait(self._registration.registered, timeout_s)

    def update(self, endpoint: Endpoint) -> None:
        """Replaces the endpoint at the same address, in place."""
        self._thread.run(lambda: self._registration.update(endpoint))

    def drain(self) -> None:
        """Marks the endpoint as draining."""
        self._thread.run(self._registration.drain)

    def pause(self) -> None:
        """Takes the endpoint out of the registry until `resume`."""
        self._thread.run(self._registration.pause)

    def resume(self) -> None:
        """Puts a paused endpoint back."""
        self._thread.run(self._registration.resume)

    def deregister(self) -> None:
        """Takes the endpoint out of the registry, for good."""
        self._thread.run(self._registration.deregister)


class SyncRegistrar:
    """`discovery.Registrar` for threads. Close it, or use it in a `with` block."""

    def __init__(
        self,
        endpoints: Endpoints,
        ttl_s: float = DEFAULT_TTL_S,
        *,
        config: EtcdClientConfig | None = None,
    ) -> None:
        client = EtcdClient(endpoints, config=config, connect=sync_transport.connect)
        self._client = client
        self._thread = LoopThread("tallystick registrar")
        try:
            self._registrar = self._thread.run(lambda: _registrar(client, ttl_s))
        except BaseException:
            self._thread.close(client.close)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def register(self, service: str, endpoint: Endpoint) -> SyncRegistration:
        """As `Registrar.register`: returns at once, whether etcd is there or not."""
        registration = self._thread.run(lambda: self._registrar.register(service, endpoint))
        return SyncRegistration(registration, self._thread)

    def drain(self) -> None:
        """Marks every endpoint as draining."""
        self._thread.run(self._registrar.drain)

    def close(self) -> None:
        """Takes everything out of the registry and ends the thread."""
        self._thread.close(self._close)

    async def _close(self) -> None:
        await self._registrar.close()
        await self._client.close()


class SyncResolver:
    """`discovery.EtcdResolver` for threads. Close it, or use it in a `with` block."""

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        config: EtcdResolverConfig | None = None,
        client_config: EtcdClientConfig | None = None,
    ) -> None:
        client = EtcdClient(endpoints, config=client_config, connect=sync_transport.connect)
        self._client = client
        self._resolver = EtcdResolver(client, config=config)
        self._thread = LoopThread("tallystick resolver")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def subscribe(self, service: str, listener: Listener) -> SyncSubscription:
        """As `EtcdResolver.subscribe`; `listener` is called in the background thread.

        It must not block, and not call what blocks on this resolver.
        """

        async def subscribe() -> Subscription:
            return self._resolver.subscribe(service, listener)

        return SyncSubscription(self._thread.run(subscribe), self._thread)

    def resolve(self, service: str, timeout_s: float = RESOLVE_TIMEOUT_S) -> ResolverState:
        """The first state of `service` in which it is resolved.

        Raises TimeoutError, saying what is the matter with the registry.
        """
        told: concurrent.futures.Future[ResolverState] = concurrent.futures.Future()
        last: list[ResolverState] = [ResolverState()]

        def listen(state: ResolverState) -> None:
            last[0] = state
            if state.resolved and not told.done():
                told.set_result(state)

        subscription = self.subscribe(service, listen)
        try:
            return told.result(timeout_s)
        except TimeoutError:
            reason = last[0].error or "etcd does not answer"
            raise TimeoutError(f"{service}: not resolved in {timeout_s:g} s: {reason}") from None
        finally:
            subscription.close()

    def close(self) -> None:
        """Ends every subscription and the thread."""
        self._thread.close(self._close)

    async def _close(self) -> None:
        await self._resolver.close()
        await self._client.close()


class SyncSubscription:
    """One listener's interest in one service."""

    def __init__(self, subscription: Subscription, thread: LoopThread) -> None:
        self._subscription = subscription
        self._thread = thread

    def close(self) -> None:
        """Ends it: once this returns the listener is not called again."""

        async def close() -> None:
            self._subscription.close()

        if not self._thread.closed:
            self._thread.run(close)


async def _registrar(client: EtcdClient, ttl_s: float) -> Registrar:
    return Registrar(client, ttl_s)
