"""What the keys of one service say, folded from listings and events. Pure.

Nothing in the registry is trusted: an entry that is malformed, too much, nested below
the service or names an address that means another machine to us is skipped, reported
once and remembered, and costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from discovery.address_book import AddressBook, Delta, Rank
from discovery.addresses import Reach, reach
from discovery.endpoint import Endpoint, MalformedEndpointError, decode_key, decode_value
from discovery.etcd_types import Fingerprint, GapError, KeyValue, Page, WatchBatch

MAX_ENDPOINTS_PER_SERVICE: Final = 20_000
MAX_BYTES_PER_SERVICE: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EntryRules:
    """Which well-formed entries are taken.

    A loopback or link-local address means the reader's own machine or link, whoever wrote
    it. An entry without a lease outlives the process it names; where such entries are
    taken, each is remarked on.
    """

    accept_loopback: bool = True
    accept_leaseless: bool = True


@dataclass(frozen=True, slots=True)
class Remark:
    """What is wrong with an entry, and whether it is skipped for that."""

    key: bytes
    reason: str
    skipped: bool = True


@dataclass(frozen=True, slots=True)
class Changes:
    """What a listing or some events came to, and what is newly wrong."""

    remarks: tuple[Remark, ...]
    delta: Delta


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key as last seen; without an endpoint when it is skipped, for `reason`."""

    key: bytes
    mod_revision: int
    create_revision: int
    version: int
    lease_id: int
    value_hash: int
    size_bytes: int
    endpoint: Endpoint | None = None
    reason: str = ""

    def is_as(self, entry: KeyValue) -> bool:
        """Whether `entry` is the same put of the same key.

        A store that was emptied counts from 1 again, so the numbers alone do not tell.
        """
        return (
            self.mod_revision == entry.mod_revision
            and self.create_revision == entry.create_revision
            and self.version == entry.version
            and self.lease_id == entry.lease_id
            and self.value_hash == hash(entry.value)
        )


class ServiceEntries:
    """The entries of one service at one revision.

    Skipped ones are kept too, without an endpoint, so that each is reported once and not
    again by the next listing. Beyond MAX_ENDPOINTS_PER_SERVICE entries or
    MAX_BYTES_PER_SERVICE entries are refused until the next listing finds room.
    """

    def __init__(self, service: str, rules: EntryRules | None = None) -> None:
        self.revision = 0
        self._service = service
        self._rules = rules or EntryRules()
        self._entries: dict[bytes, _Entry] = {}
        self._size_bytes = 0
        self._overflowed = False
        self._listed = _Listed()
        self._book = AddressBook()

    def __len__(self) -> int:
        """How many endpoints there are."""
        return len(self._book)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints by address; of several keys with one address one counts."""
        return self._book.endpoints()

    def matches(self, fingerprint: Fingerprint) -> bool:
        """Whether the store, at `revision`, holds what we hold.

        If not, it lost its data and has grown again up to `revision` or beyond.
        """
        if self._overflowed or fingerprint.count != len(self._entries):
            return False
        newest = fingerprint.newest
        if newest is None:
            return True
        known = self._entries.get(newest.key)
        return known is not None and known.is_as(newest)

    def begin_listing(self) -> None:
        """Pages of a new listing follow; until it is finished nothing changes."""
        self._listed = _Listed()

    def add_page(self, page: Page) -> None:
        """Takes one page. What is as it was is not read again."""
        self._listed.revision = page.revision
        for entry in page.entries:
            known = self._entries.get(entry.key)
            self._listed.add(known if known and known.is_as(entry) else self._read(entry))

    def finish_listing(self) -> Changes:
        """Makes the listing the whole truth."""
        listed, self._listed = self._listed, _Listed()
        self.revision, self._overflowed = listed.revision, listed.overflowed
        for key in [key for key in self._entries if key not in listed.entries]:
            self._remove(key)
        news = [each for each in listed.entries.values() if self._entries.get(each.key) is not each]
        return self._changes([*self._put_all(news), *listed.refused])

    def apply(self, batch: WatchBatch) -> Changes:
        """Takes events.

        Only events move `revision`: the batch's own may be ahead of events that are
        still under way. Raises GapError for an event that does not follow from what is
        known; list again then.
        """
        remarks: list[Remark] = []
        for event in batch.events:
            entry = event.entry
            if entry.mod_revision < self.revision:
                continue
            self._check_follows(entry, event.deleted)
            self.revision = entry.mod_revision
            self._remove(entry.key)
            if not event.deleted:
                remarks += self._put_all([self._read(entry)])
        return self._changes(remarks)

    def _changes(self, remarks: Sequence[Remark]) -> Changes:
        return Changes(tuple(remarks), self._book.settle())

    def _check_follows(self, entry: KeyValue, deleted: bool) -> None:
        known = self._entries.get(entry.key)
        if self._overflowed:
            return
        if deleted:
            follows = known is not None
        else:
            follows = entry.version == (known.version if known else 0) + 1
        if not follows:
            raise GapError(f"an event at revision {entry.mod_revision} follows one we missed")

    def _put_all(self, entries: Iterable[_Entry]) -> list[Remark]:
        remarks = []
        for entry in entries:
            self._remove(entry.key)
            if not _has_room(len(self._entries), self._size_bytes + entry.size_bytes):
                self._overflowed = True
                remarks.append(Remark(entry.key, _NO_ROOM))
                continue
            self._entries[entry.key] = entry
            self._size_bytes += entry.size_bytes
            if entry.reason:
                remarks.append(Remark(entry.key, entry.reason, entry.endpoint is None))
            if entry.endpoint is not None:
                rank = Rank(entry.lease_id != 0, entry.mod_revision)
                self._book.put(entry.key, entry.endpoint, rank)
        return remarks

    def _remove(self, key: bytes) -> None:
        known = self._entries.pop(key, None)
        if known is None:
            return
        self._size_bytes -= known.size_bytes
        if known.endpoint is not None:
            self._book.remove(key, known.endpoint)

    def _read(self, entry: KeyValue) -> _Entry:
        endpoint, reason = None, "" if entry.lease_id else _NO_LEASE
        try:
            endpoint = self._decode(entry)
        except MalformedEndpointError as error:
            reason = str(error)
        return _Entry(
            entry.key,
            entry.mod_revision,
            entry.create_revision,
            entry.version,
            entry.lease_id,
            hash(entry.value),
            len(entry.key) + len(entry.value),
            endpoint,
            reason,
        )

    def _decode(self, entry: KeyValue) -> Endpoint:
        service, _ = decode_key(entry.key)
        if service != self._service:
            raise MalformedEndpointError("key is nested below the service")
        if not entry.lease_id and not self._rules.accept_leaseless:
            raise MalformedEndpointError(_NO_LEASE)
        endpoint = decode_value(entry.value)
        if not self._rules.accept_loopback and reach(endpoint.address) in _NOT_BEYOND_A_MACHINE:
            raise MalformedEndpointError("address is loopback or link-local, the registry is not")
        return endpoint


class _Listed:
    """A listing that is being taken, within the limits of a service."""

    def __init__(self) -> None:
        self.revision = 0
        self.entries: dict[bytes, _Entry] = {}
        self.refused: list[Remark] = []
        self.overflowed = False
        self._size_bytes = 0

    def add(self, entry: _Entry) -> None:
        if _has_room(len(self.entries), self._size_bytes + entry.size_bytes):
            self.entries[entry.key] = entry
            self._size_bytes += entry.size_bytes
        elif not self.overflowed:
            # One report is enough: the rest may be without number.
            self.overflowed = True
            self.refused.append(Remark(entry.key, _NO_ROOM))


_NO_LEASE = "key has no lease: nothing removes it when its process ends"
_NO_ROOM = "the service has too many entries"
_NOT_BEYOND_A_MACHINE = (Reach.LOOPBACK, Reach.LINK_LOCAL)


def _has_room(entries: int, size_bytes: int) -> bool:
    return entries < MAX_ENDPOINTS_PER_SERVICE and size_bytes <= MAX_BYTES_PER_SERVICE
