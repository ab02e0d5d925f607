"""What is known of one service: the registry's entries, what was withdrawn, and a reason."""

from __future__ import annotations

import logging
from typing import Final

from discovery.endpoint import Endpoint
from discovery.entries import Changes, Remark, ServiceEntries
from discovery.removal import Removals
from discovery.resolver import ResolverState

MAX_LOGGED_KEYS: Final = 100
_MAX_LOGGED_CHARS = 200

_log = logging.getLogger(__name__)


class ServiceView:
    """Folds changes of `entries` into states.

    `error` says why the registry cannot be followed now. `skipped_total` counts the
    entries that were skipped, `leaseless_total` those without a lease that were not.
    """

    def __init__(self, service: str, entries: ServiceEntries, removals: Removals) -> None:
        self.error: str | None = None
        self.skipped_total = 0
        self.leaseless_total = 0
        self.resolved = False
        self._service = service
        self._entries = entries
        self._removals = removals
        self._logged: set[bytes] = set()

    def __len__(self) -> int:
        """How many endpoints there are."""
        return len(self._entries)

    def take(self, changes: Changes, now_s: float) -> None:
        """Takes what a listing or events changed."""
        self._removals.observe(
            appeared=changes.delta.appeared,
            vanished=changes.delta.vanished,
            present_count=len(self._entries),
            now_s=now_s,
        )
        for remark in changes.remarks:
            self._remark(remark)

    def state(self, now_s: float) -> ResolverState:
        """What to tell listeners now."""
        return ResolverState(
            endpoints=self._entries.endpoints(),
            withdrawn=self._removals.withdrawn(now_s),
            resolved=self.resolved,
            error=self.error,
        )

    def next_change_at_s(self) -> float | None:
        """When `state` changes by time alone, or None."""
        return self._removals.next_change_at_s()

    def known(self, now_s: float) -> tuple[Endpoint, ...]:
        """The endpoints worth keeping for a start without a registry.

        What was withdrawn is among them: a registry that was emptied by accident must
        not empty the memory of what it held.
        """
        return (*self._entries.endpoints(), *self._removals.withdrawn(now_s))

    def _remark(self, remark: Remark) -> None:
        key = remark.key[:_MAX_LOGGED_CHARS]
        if remark.skipped:
            self.skipped_total += 1
            self._log_once(key, remark.reason)
            return
        self.leaseless_total += 1
        if self.leaseless_total == 1:
            _log.warning("took %r, and counts further ones: %s", key, remark.reason)

    def _log_once(self, key: bytes, reason: str) -> None:
        if key in self._logged or len(self._logged) > MAX_LOGGED_KEYS:
            return
        self._logged.add(key)
        if len(self._logged) > MAX_LOGGED_KEYS:
            _log.warning("%s: further bad entries are counted, not logged", self._service)
        else:
            _log.warning("skipped %r: %s", key, reason)
