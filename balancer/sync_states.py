"""Who wants to be called when the state of a channel changes: grpc.Channel's `subscribe`.

Listeners may block, as they may with gRPC, and so are called in a thread that is started
when there is something to tell and ends when all has been told.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from grpc import ChannelConnectivity

Listener = Callable[[ChannelConnectivity], None]

MAX_LISTENERS: Final = 1_000

_log = logging.getLogger(__name__)


class _Told:
    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.state: ChannelConnectivity | None = None


class StateListeners:
    """The listeners of one channel. `state` says in which state it is."""

    def __init__(self, state: Callable[[], ChannelConnectivity]) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._listeners: list[_Told] = []
        self._is_telling = False

    def add(self, listener: Listener) -> None:
        """Tells `listener` the state soon, and each one that differs from the last told.

        Raises ValueError when there are MAX_LISTENERS.
        """
        with self._lock:
            if len(self._listeners) >= MAX_LISTENERS:
                raise ValueError(f"{MAX_LISTENERS} listeners have subscribed already")
            self._listeners.append(_Told(listener))
        self.tell()

    def remove(self, listener: Listener) -> None:
        """Undoes one `add`; nothing if there was none."""
        with self._lock:
            for each in self._listeners:
                if each.listener == listener:
                    self._listeners.remove(each)
                    return

    def clear(self) -> None:
        """Removes everyone."""
        with self._lock:
            self._listeners.clear()

    def tell(self) -> None:
        """Has everyone told what they do not know yet."""
        with self._lock:
            if self._is_telling or not self._listeners:
                return
            self._is_telling = True
        threading.Thread(target=self._tell, name="tallystick state", daemon=True).start()

    def _tell(self) -> None:
        while told := self._untold():
            listener, state = told
            try:
                listener(state)
            except Exception:  # noqa: BLE001 - as gRPC: one listener's fault must not cost the others
                _log.exception("a listener of the channel's state raised")

    def _untold(self) -> tuple[Listener, ChannelConnectivity] | None:
        with self._lock:
            state = self._state()
            for each in self._listeners:
                if each.state is not state:
                    each.state = state
                    return each.listener, state
            self._is_telling = False
            return None
