"""Streams stay where they were opened; who owns one can ask to be told when it has to move.

A stream is pinned to its connection, since nobody but its owner knows from where another could
go on. When the endpoint drains, or has left the registry, the owner is told: it opens
another stream, which is picked anew, and ends this one. Calls may be wrapped in others of this
package, by retries or interceptors; what counts is the call beneath them all.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

_log = logging.getLogger(__name__)


class Pins:
    """Which streams of a channel are where, and whom to tell. For any thread.

    `is_leaving` says whether a connection is to be left; `tell` runs a callback.
    """

    def __init__(
        self, is_leaving: Callable[[Any], bool], tell: Callable[[Callable[[], None]], None]
    ) -> None:
        self._is_leaving = is_leaving
        self._tell = tell
        self._lock = threading.Lock()
        self._where: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        # Never more than streams under way: those that have ended are let go of.
        self._asked: list[tuple[weakref.ref[Any], Callable[[Any], None]]] = []

    def pin(self, call: Any, connection: Any) -> None:
        """Notes where a stream was opened."""
        with self._lock:
            self._where[call] = connection

    def ask(self, call: Any, callback: Callable[[Any], None]) -> None:
        """Has `callback(call)` called once when `call` has to move, at once if it has."""
        with self._lock:
            self._asked.append((weakref.ref(call), callback))
        self.look()

    def look(self) -> None:
        """Tells those whose streams have to move by now."""
        if not self._asked:
            return
        due = []
        with self._lock:
            kept = []
            for reference, callback in self._asked:
                call = reference()
                if call is None or call.done():
                    continue
                connection = self._where.get(_beneath(call))
                if connection is not None and self._is_leaving(connection):
                    due.append((call, callback))
                else:
                    kept.append((reference, callback))
            self._asked = kept
        for call, callback in due:
            self._tell(partial(_run, callback, call))


def _beneath(call: Any) -> Any:
    """GRPC's own call under those of this package; whatever there is if it is not yet there."""
    while hasattr(call, "beneath"):
        inner = call.beneath()
        if inner is None:
            return call
        call = inner
    return call


def _run(callback: Callable[[Any], None], call: Any) -> None:
    try:
        callback(call)
    except Exception:  # noqa: BLE001 - one owner's fault must not cost the others their news
        _log.exception("a callback about a draining endpoint raised")
