"""Who listens to one service, and the promise made to them.

Every resolver keeps the same promise (see `discovery.resolver`): never called from
within `subscribe`, only with states that differ from the last, never after `close`.
It is kept here, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from discovery.resolver import Listener, ResolverState

_log = logging.getLogger(__name__)


class ListenerSet:
    """The listeners of one service, and the last state they were told.

    `on_empty` is called when the last listener leaves.
    """

    def __init__(self, on_empty: Callable[[], None] = lambda: None) -> None:
        self._subscriptions: list[_Subscription] = []
        self._on_empty = on_empty
        self._state: ResolverState | None = None

    @property
    def state(self) -> ResolverState:
        """What is known; the empty state before anything is."""
        return self._state or ResolverState()

    def add(self, listener: Listener) -> _Subscription:
        """Tells `listener` the known state soon, or the first one when it comes."""
        subscription = _Subscription(listener, self._remove)
        self._subscriptions.append(subscription)
        if self._state is not None:
            subscription.tell_soon(self._state)
        return subscription

    def publish(self, state: ResolverState) -> None:
        """Tells everybody, if this is news."""
        if state == self._state:
            return
        self._state = state
        for subscription in self._subscriptions:
            subscription.tell_soon(state)

    def close(self) -> None:
        """Ends every subscription, without calling `on_empty`."""
        self._on_empty = lambda: None
        for subscription in tuple(self._subscriptions):
            subscription.close()

    def _remove(self, subscription: _Subscription) -> None:
        self._subscriptions.remove(subscription)
        if not self._subscriptions:
            self._on_empty()


class _Subscription:
    def __init__(self, listener: Listener, on_close: Callable[[_Subscription], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._on_close = on_close
        self._open = True

    def tell_soon(self, state: ResolverState) -> None:
        # Always through the loop: a listener may subscribe or close from within.
        self._loop.call_soon(self._tell, state)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._on_close(self)

    def _tell(self, state: ResolverState) -> None:
        if not self._open:
            return
        try:
            self._listener(state)
        except Exception:  # noqa: BLE001 - one listener's fault must not cost the others
            _log.exception("a resolver listener raised")
