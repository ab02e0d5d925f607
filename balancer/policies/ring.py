"""A consistent hash ring: keys and virtual nodes on one circle, a key belongs to the next node.

Karger et al., "Consistent Hashing and Random Trees" (STOC 1997). A virtual node is a point
that depends on nothing but the address it belongs to and its number, so all clients agree,
and one endpoint more or less moves only the keys that it gains or loses.

Of the hash of a key only the first bits count: it belongs to the first point at or after
the beginning of its arc, of ARCS equal ones. So finding the owner is one look into a table
and no search, and all that holds for a ring still does: an arc is a key.

A ring is immutable. `resized` splices the points that come and go into a copy, which for
one endpoint of a thousand costs a small part of sorting again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from xxhash import xxh64_intdigest

HASH_BITS: Final = 64
ARCS: Final = 65_536
ARC_SHIFT: Final = HASH_BITS - ARCS.bit_length() + 1
"""A key of hash h lies in arc `h >> ARC_SHIFT`."""

_SORT_BUCKETS = 2_048
_BUCKET_SHIFT = HASH_BITS - _SORT_BUCKETS.bit_length() + 1
# Splicing costs more per point than sorting; at this share of the ring they are even.
_SPLICE_SHARE = 1 / 8

Points: TypeAlias = "array[int]"

hash_of = xxh64_intdigest
"""Where a key lies on the circle: XXH64, as in gRFC A42, the same on every machine."""


def ring_sizes(weights: Mapping[str, int], virtual_nodes: int, max_points: int) -> dict[str, int]:
    """How many points each address gets: `virtual_nodes` for each unit of weight.

    Were that more than `max_points` together, all are halved until it is not, but none has
    less than one. Halving and not scaling: the size of one endpoint then does not depend on
    who else is there, except where the fleet outgrows a power of two.
    """
    wanted = virtual_nodes * sum(weights.values())
    halvings = (max(1, -(-wanted // max_points)) - 1).bit_length()
    return {
        address: max(1, virtual_nodes * weight >> halvings) for address, weight in weights.items()
    }


class Ring:
    """The circle: `points` in order, `owners` of each, `arcs` by owner, `sizes` by address."""

    __slots__ = ("arcs", "owners", "points", "sizes")

    def __init__(
        self, points: Points, owners: list[str], arcs: list[str], sizes: Mapping[str, int]
    ) -> None:
        self.points = points
        self.owners = owners
        self.arcs = arcs
        self.sizes = dict(sizes)

    @classmethod
    def of(cls, sizes: Mapping[str, int]) -> Ring:
        """The ring with as many points of each address as `sizes` says."""
        points, owners = _sorted_points(sizes)
        return cls(points, owners, _arcs(points, owners), sizes)

    def __len__(self) -> int:
        return len(self.points)

    def owner(self, point: int) -> str:
        """The address to which `point` belongs, a hash of HASH_BITS."""
        return self.arcs[point >> ARC_SHIFT]

    def walk(self, point: int) -> Iterator[str]:
        """The owners from `point` once around; an address comes as often as it has points."""
        size = len(self.points)
        first = bisect_left(self.points, point >> ARC_SHIFT << ARC_SHIFT)
        return (self.owners[at % size] for at in range(first, first + size))

    def resized(self, sizes: Mapping[str, int]) -> Ring:
        """The ring of `sizes`, equal to a new one but sooner there if it is much like this."""
        if sizes == self.sizes:
            return self
        if not sizes or _distance(self.sizes, sizes) > len(self) * _SPLICE_SHARE:
            return Ring.of(sizes)
        changes = sorted(_changes(self.sizes, sizes))
        points, owners = self._spliced(changes)
        arcs = self.arcs.copy()
        _repaint(arcs, points, owners, [change.point for change in changes])
        return Ring(points, owners, arcs, sizes)

    def _spliced(self, changes: Sequence[_Change]) -> tuple[Points, list[str]]:
        points, owners = array("Q"), list[str]()
        copied = 0
        for point, owner, arrives in changes:
            at = max(copied, self._place(point, owner))
            points += self.points[copied:at]
            owners += self.owners[copied:at]
            if arrives:
                points.append(point)
                owners.append(owner)
            copied = at if arrives else at + 1
        points += self.points[copied:]
        owners += self.owners[copied:]
        return points, owners

    def _place(self, point: int, owner: str) -> int:
        """Where `point` of `owner` is or would be; points that collide lie by address."""
        at = bisect_left(self.points, point)
        while at < len(self) and self.points[at] == point and self.owners[at] < owner:
            at += 1
        return at


class _Change(NamedTuple):
    point: int
    owner: str
    arrives: bool


def _distance(old: Mapping[str, int], new: Mapping[str, int]) -> int:
    """How many points come and go."""
    return sum(abs(new.get(each, 0) - old.get(each, 0)) for each in old.keys() | new.keys())


def _changes(old: Mapping[str, int], new: Mapping[str, int]) -> Iterator[_Change]:
    for address in old.keys() | new.keys():
        before, after = old.get(address, 0), new.get(address, 0)
        for point in _points_of(address, min(before, after), max(before, after)):
            yield _Change(point, address, after > before)


def _points_of(address: str, first: int, end: int) -> list[int]:
    """The points number `first` to before `end`; the number is the seed of the hash."""
    name = address.encode()
    return [hash_of(name, seed) for seed in range(first, end)]


def _sorted_points(sizes: Mapping[str, int]) -> tuple[Points, list[str]]:
    """All points in order, and the owner of each.

    Point and rank of the owner are packed into one integer, since a key function or tuples
    take twice as long to sort, and sorted by bucket, since small lists stay in the cache.
    """
    addresses = sorted(sizes)
    rank_bits = len(addresses).bit_length()
    buckets: list[list[int]] = [[] for _ in range(_SORT_BUCKETS)]
    for rank, address in enumerate(addresses):
        for point in _points_of(address, 0, sizes[address]):
            buckets[point >> _BUCKET_SHIFT].append(point << rank_bits | rank)
    for bucket in buckets:
        bucket.sort()
    packed = list(chain.from_iterable(buckets))
    mask = (1 << rank_bits) - 1
    points = array("Q", [each >> rank_bits for each in packed])
    return points, [addresses[each & mask] for each in packed]


def _arcs(points: Points, owners: list[str]) -> list[str]:
    """The owner of each arc: of the first point at or after its beginning."""
    arcs = list[str]()
    for point, owner in zip(points, owners, strict=True):
        missing = (point >> ARC_SHIFT) + 1 - len(arcs)
        if missing:
            arcs += [owner] * missing
    # After the last point comes the first.
    return arcs + owners[:1] * (ARCS - len(arcs))


def _repaint(arcs: list[str], points: Points, owners: list[str], changed: Sequence[int]) -> None:
    """Makes `arcs` right again before each of the `changed` points."""
    for point in changed:
        at = bisect_left(points, point)
        first = (points[at - 1] >> ARC_SHIFT) + 1 if at else 0
        end = (point >> ARC_SHIFT) + 1
        arcs[first:end] = [owners[at % len(owners)]] * (end - first)
    # The first point may be another, and owns the arcs after the last one.
    rest = (points[-1] >> ARC_SHIFT) + 1
    arcs[rest:] = owners[:1] * (ARCS - rest)
