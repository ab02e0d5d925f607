"""What the keys of one service say, folded from listings and events. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from discovery.endpoint import Endpoint, MalformedEndpointError, decode_key, decode_value
from discovery.etcd_types import KeyValue, Listing, WatchBatch

MAX_ENDPOINTS_PER_SERVICE: Final = 20_000


@dataclass(frozen=True, slots=True)
class Malformed:
    """An entry that was skipped, and why."""

    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class _Entry:
    mod_revision: int
    endpoint: Endpoint | None


class ServiceEntries:
    """The entries of one service at one revision.

    Malformed ones are kept too, without an endpoint, so that each is reported once and
    not again by the next listing. Beyond MAX_ENDPOINTS_PER_SERVICE entries are refused
    until the next listing finds room.
    """

    def __init__(self, service: str) -> None:
        self.revision = 0
        self._service = service
        self._entries: dict[bytes, _Entry] = {}

    def replace(self, listing: Listing) -> list[Malformed]:
        """Takes a listing as the whole truth; returns what is newly malformed."""
        former, self._entries = self._entries, {}
        self.revision = listing.revision
        problems = []
        for each in listing.entries:
            known = former.get(each.key)
            if known is not None and known.mod_revision == each.mod_revision:
                self._entries[each.key] = known
            else:
                problems += self._put(each)
        return problems

    def apply(self, batch: WatchBatch) -> list[Malformed]:
        """Takes events; returns what is newly malformed.

        Only events move `revision`: the batch's own may be ahead of events that are
        still under way.
        """
        problems = []
        for event in batch.events:
            if event.entry.mod_revision < self.revision:
                continue
            self.revision = event.entry.mod_revision
            if event.deleted:
                self._entries.pop(event.entry.key, None)
            else:
                problems += self._put(event.entry)
        return problems

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints by address; of two keys with one address the newest counts."""
        by_address: dict[str, _Entry] = {}
        for entry in self._entries.values():
            if entry.endpoint is None:
                continue
            rival = by_address.get(entry.endpoint.address)
            if rival is None or entry.mod_revision > rival.mod_revision:
                by_address[entry.endpoint.address] = entry
        chosen = (by_address[address].endpoint for address in sorted(by_address))
        return tuple(endpoint for endpoint in chosen if endpoint is not None)

    def _put(self, entry: KeyValue) -> list[Malformed]:
        if entry.key not in self._entries and len(self._entries) >= MAX_ENDPOINTS_PER_SERVICE:
            return [Malformed(entry.key, f"more than {MAX_ENDPOINTS_PER_SERVICE} entries")]
        try:
            endpoint = self._decode(entry)
        except MalformedEndpointError as error:
            self._entries[entry.key] = _Entry(entry.mod_revision, None)
            return [Malformed(entry.key, str(error))]
        self._entries[entry.key] = _Entry(entry.mod_revision, endpoint)
        return []

    def _decode(self, entry: KeyValue) -> Endpoint:
        service, _ = decode_key(entry.key)
        if service != self._service:
            raise MalformedEndpointError("key is nested below the service")
        return decode_value(entry.value)
