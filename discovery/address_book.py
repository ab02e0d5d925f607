"""Which endpoint stands at which address, kept in order as keys come and go. Pure.

Several keys may name one address (a second registration, or somebody's `etcdctl put`).
A key under a lease counts before one without, since only the former goes when its
process does; among equals the newest counts. A change costs as much as it changes: with
ten thousand endpoints present, the others are neither sorted nor compared again.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

from discovery.endpoint import Endpoint


class Rank(NamedTuple):
    """What makes one key count before another."""

    leased: bool
    mod_revision: int


class _Claim(NamedTuple):
    rank: Rank
    key: bytes
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Delta:
    """The addresses that appeared, and the endpoints that vanished, as they last stood."""

    appeared: tuple[str, ...] = ()
    vanished: tuple[Endpoint, ...] = ()


class AddressBook:
    """Endpoints by address."""

    def __init__(self) -> None:
        self._claims: dict[str, list[_Claim]] = {}
        self._addresses: list[str] = []
        self._endpoints: list[Endpoint] = []
        self._answer: tuple[Endpoint, ...] | None = ()
        # Touched since `settle`: whether each was there before, and how it last stood.
        self._was_there: dict[str, bool] = {}
        self._last: dict[str, Endpoint] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints, by address."""
        if self._answer is None:
            self._answer = tuple(self._endpoints)
        return self._answer

    def put(self, key: bytes, endpoint: Endpoint, rank: Rank) -> None:
        """`key` names `endpoint` now, which may be at another address than before."""
        claims = self._claims.setdefault(endpoint.address, [])
        claims[:] = [claim for claim in claims if claim.key != key]
        claims.append(_Claim(rank, key, endpoint))
        self._decide(endpoint.address)

    def remove(self, key: bytes, endpoint: Endpoint) -> None:
        """`key` no longer names `endpoint`."""
        claims = self._claims.get(endpoint.address, [])
        claims[:] = [claim for claim in claims if claim.key != key]
        self._decide(endpoint.address)

    def settle(self) -> Delta:
        """What all changes since the last call come to."""
        appeared = tuple(a for a, was in self._was_there.items() if not was and a in self._claims)
        vanished = tuple(
            self._last[a] for a, was in self._was_there.items() if was and a not in self._claims
        )
        self._was_there.clear()
        self._last.clear()
        return Delta(appeared, vanished)

    def _decide(self, address: str) -> None:
        at = bisect_left(self._addresses, address)
        present = at < len(self._addresses) and self._addresses[at] == address
        self._was_there.setdefault(address, present)
        self._answer = None
        if present:
            self._last[address] = self._endpoints[at]
        claims = self._claims[address]
        if claims:
            self._set(at, address, max(claims).endpoint, present)
            return
        del self._claims[address]
        if present:
            del self._addresses[at], self._endpoints[at]

    def _set(self, at: int, address: str, endpoint: Endpoint, present: bool) -> None:
        if present:
            self._endpoints[at] = endpoint
        else:
            self._addresses.insert(at, address)
            self._endpoints.insert(at, endpoint)
