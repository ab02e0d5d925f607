"""The registry as coordinators use it: leases that run out, and an etcd that may be away."""

from __future__ import annotations

from collections.abc import Callable, Mapping

LEASE_TTL_S = 2.0


class Registry:
    """Who is registered. While etcd is away nobody hears anything, and no lease runs out."""

    def __init__(self, now_s: Callable[[], float], cuts: Mapping[tuple[str, str], int]) -> None:
        """`cuts` are directed pairs of hosts over which nothing comes; etcd is at ETCD."""
        self._now_s = now_s
        self._cuts = cuts
        self._until_s: dict[str, float] = {}
        self._started: dict[str, str] = {}
        self._away_since_s: float | None = None

    def renew(self, name: str, started: str) -> None:
        """Keeps the lease of `name` alive, if etcd hears of it; `started` names its life."""
        if self._hears(name):
            self._until_s[name] = self._now_s() + LEASE_TTL_S
            self._started[name] = started

    def read(self, name: str) -> dict[str, str] | None:
        """Who is registered, and in which life, as `name` hears it; None when it hears nothing."""
        if not self._hears(name) or self._cuts.get((ETCD, name)):
            return None
        now_s = self._now_s()
        return {
            each: self._started[each] for each, until_s in self._until_s.items() if until_s > now_s
        }

    def goes_away(self) -> None:
        """Etcd stops."""
        if self._away_since_s is None:
            self._away_since_s = self._now_s()

    def comes_back(self) -> None:
        """Leases go on with all the time that they have at most, as etcd's own do."""
        if self._away_since_s is not None:
            self._away_since_s = None
            self._until_s = {
                name: max(until_s, self._now_s() + LEASE_TTL_S)
                for name, until_s in self._until_s.items()
            }

    def _hears(self, name: str) -> bool:
        return self._away_since_s is None and not self._cuts.get((name, ETCD))


ETCD = "etcd"
