"""When endpoints that leave the registry are withdrawn rather than removed. Pure.

A removal is immediate, except when more than half (at least 2) of the endpoints seen in
the last `window_s` vanish undrained, or the last one there is: then they are withdrawn,
not removed, for `grace_s`.
One endpoint that goes has most likely died. Most of a service going at once is more
likely the registry's fault (an etcd restored empty, every lease revoked), and a client
that believed it would drop connections that work.

Seen in the window is what is present now and what vanished within it, drained or not.
Endpoints often vanish one by one, each with its own lease: when the threshold is crossed
all that vanished undrained within the window are withdrawn, the first of them too. The
threshold is weighed when something vanishes and at no other time, so that nothing already
removed comes back merely because the window moved on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from discovery.endpoint import Endpoint

# As many as a service may hold; beyond it the oldest is forgotten, that is, removed.
MAX_VANISHED: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Vanished:
    endpoint: Endpoint
    at_s: float


class Removals:
    """Judges the removals of one service.

    `now_s` is a monotonic clock's reading and never goes back. A call costs in proportion
    to what changed, however many endpoints there are.

    Raises ValueError when `window_s` or `grace_s` is not above 0.
    """

    def __init__(self, window_s: float = 10.0, grace_s: float = 60.0) -> None:
        if not window_s > 0 or not grace_s > 0:
            raise ValueError("window_s and grace_s must be above 0")
        self._window_s = window_s
        self._grace_s = grace_s
        # By address, in the order in which they vanished. OrderedDict, because finding the
        # first of a dict costs as much as was taken from its front before.
        self._window: OrderedDict[str, _Vanished] = OrderedDict()
        self._undrained_in_window = 0
        # Of the window's undrained ones those that were removed, and may yet be withdrawn.
        self._removed: OrderedDict[str, _Vanished] = OrderedDict()
        self._withdrawn: OrderedDict[str, _Vanished] = OrderedDict()
        self._answer: tuple[Endpoint, ...] | None = ()

    def observe(
        self,
        *,
        appeared: Iterable[str] = (),
        vanished: Iterable[Endpoint] = (),
        present_count: int,
        now_s: float,
    ) -> None:
        """Takes what changed since the last call.

        `appeared` are the addresses that are present now and were not before (naming
        one that was present does no harm), `vanished` the endpoints that are not present
        now, each as it last stood: a drained one is draining and never withdrawn.
        `present_count` is how many endpoints are present now. An address in both
        `appeared` and `vanished` is present.
        """
        self._slide(now_s)
        for address in (present := set(appeared)):
            self._forget(address)
        gone = [endpoint for endpoint in vanished if endpoint.address not in present]
        for endpoint in gone:
            self._remember(_Vanished(endpoint, now_s))
        undrained = any(not endpoint.draining for endpoint in gone)
        # Whoever goes last takes those that went before out of doubt, drained or not.
        if gone and (undrained or present_count == 0) and self._is_mass(present_count):
            self._withdraw()

    def withdrawn(self, now_s: float) -> tuple[Endpoint, ...]:
        """The endpoints that are withdrawn, by address; never one that is present."""
        while self._withdrawn and self._first_expires_at_s() <= now_s:
            self._withdrawn.popitem(last=False)
            self._answer = None
        if self._answer is None:
            by_address = sorted(self._withdrawn)
            self._answer = tuple(self._withdrawn[address].endpoint for address in by_address)
        return self._answer

    def next_change_at_s(self) -> float | None:
        """When `withdrawn` next changes by time alone; None when it does not."""
        return self._first_expires_at_s() if self._withdrawn else None

    def _first_expires_at_s(self) -> float:
        return next(iter(self._withdrawn.values())).at_s + self._grace_s

    def _is_mass(self, present_count: int) -> bool:
        # More than half is at least two, but for a service of one.
        seen = present_count + len(self._window)
        return present_count == 0 or 2 * self._undrained_in_window > seen

    def _withdraw(self) -> None:
        self._withdrawn.update(self._removed)
        self._removed.clear()
        while len(self._withdrawn) > MAX_VANISHED:
            self._withdrawn.popitem(last=False)
        self._answer = None

    def _slide(self, now_s: float) -> None:
        """Lets go of what vanished before the window began."""
        while self._window:
            address, oldest = next(iter(self._window.items()))
            if oldest.at_s + self._window_s > now_s:
                return
            self._leave_window(address)

    def _remember(self, vanished: _Vanished) -> None:
        address = vanished.endpoint.address
        self._forget(address)
        self._window[address] = vanished
        if not vanished.endpoint.draining:
            self._undrained_in_window += 1
            self._removed[address] = vanished
        if len(self._window) > MAX_VANISHED:
            self._leave_window(next(iter(self._window)))

    def _forget(self, address: str) -> None:
        self._leave_window(address)
        if self._withdrawn.pop(address, None) is not None:
            self._answer = None

    def _leave_window(self, address: str) -> None:
        left = self._window.pop(address, None)
        if left is not None and not left.endpoint.draining:
            self._undrained_in_window -= 1
            self._removed.pop(address, None)
