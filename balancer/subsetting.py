"""Each client uses some of a large fleet, and everybody together uses all of it evenly.

A thousand clients that connect to a thousand servers hold a million connections. With a
subset of 20 each they hold 20,000, and a client sees enough calls per endpoint to judge it.

The choice is by rendezvous hashing as in gRFC A68: each client ranks the endpoints by a
hash of address and client, and takes the first. When an endpoint comes or goes at most one
of a client's subset changes. The deterministic subsetting of Google's SRE book (chapter 20)
spreads exactly evenly, but one change of the list can reshuffle every client, and it needs
clients numbered without gaps; A68 was chosen by gRPC for these reasons. The price is a
spread that is even only by chance: the connections of an endpoint vary like a binomial,
with a relative deviation of about 1 / sqrt(clients * size / endpoints).

A68 salts with randomness at start; here the salt is `client_id`, so that a client that
restarts finds the endpoints it had. XXH3 is the same on every machine and version.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import xxhash

from balancer.errors import InvalidConfigError
from discovery.endpoint import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetConfig:
    """`size` endpoints are used by the client named `client_id`, one name per process.

    Raises InvalidConfigError.
    """

    client_id: str
    size: int = 20

    def __post_init__(self) -> None:
        # Clients that share a name would all use the same few endpoints.
        if not self.client_id:
            raise InvalidConfigError("client_id is empty")
        if not self.size > 0:
            raise InvalidConfigError(f"size is not above 0: {self.size}")


def subset(endpoints: Iterable[Endpoint], size: int, client_id: str) -> tuple[Endpoint, ...]:
    """The `size` endpoints that `client_id` uses, ordered by address; all if there are fewer.

    An endpoint that begins to drain is replaced, and stays beside its replacement while it
    has calls to finish: up to `size` draining ones come on top.
    """
    ranked = sorted(endpoints, key=_rank(client_id))
    staying = draining = 0
    chosen = []
    for endpoint in ranked:
        if staying == size:
            break
        if not endpoint.draining:
            staying += 1
        elif draining < size:
            draining += 1
        else:
            continue
        chosen.append(endpoint)
    return tuple(sorted(chosen, key=lambda each: each.address))


def first_within(
    endpoints: Sequence[Endpoint], limit: int, works: Collection[str]
) -> tuple[Endpoint, ...]:
    """`limit` of `endpoints`, ordered by address as they are; those whose address `works` first.

    A flood of others must not push those out that work.
    """
    first = tuple(endpoints[:limit])
    if sum(each.address in works for each in first) == len(works):
        return first
    working = [each for each in endpoints if each.address in works]
    others = (each for each in endpoints if each.address not in works)
    chosen = [*working, *itertools.islice(others, limit - len(working))]
    return tuple(sorted(chosen, key=lambda each: each.address))


def _rank(client_id: str) -> Callable[[Endpoint], tuple[int, str]]:
    seed = xxhash.xxh3_64_intdigest(client_id.encode())

    def rank(endpoint: Endpoint) -> tuple[int, str]:
        return xxhash.xxh3_64_intdigest(endpoint.address.encode(), seed), endpoint.address

    return rank
