"""What a listing says of services, by the rules a resolver reads it with. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from discovery.address_book import Rank
from discovery.cli.text import shown_key
from discovery.endpoint import Endpoint, MalformedEndpointError, decode_key, decode_value
from discovery.entries import EntryRules, Remark, ServiceEntries
from discovery.etcd_types import KeyValue, Page


@dataclass(frozen=True, slots=True)
class Found:
    """An endpoint, and the key it stands under."""

    endpoint: Endpoint
    entry: KeyValue

    def public(self) -> dict[str, Any]:
        """The same for JSON; the lease in hexadecimal, as etcdctl shows it."""
        return public(self.endpoint) | {
            "key": shown_key(self.entry.key),
            "lease": f"{self.entry.lease_id:x}" if self.entry.lease_id else "",
        }


@dataclass(frozen=True, slots=True)
class ServiceSummary:
    """How many endpoints a service has, how many of them drain, and what is wrong."""

    service: str
    endpoints: int
    draining: int
    remarks: tuple[Remark, ...]

    @property
    def skipped(self) -> int:
        """How many entries are not used."""
        return sum(remark.skipped for remark in self.remarks)


def public(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint for JSON."""
    return asdict(endpoint)


class ServiceSurvey:
    """The endpoints of one service, with their keys, by address."""

    def __init__(self, service: str, rules: EntryRules) -> None:
        self._entries = ServiceEntries(service, rules)
        self._entries.begin_listing()
        self._seen: list[KeyValue] = []

    def add_page(self, page: Page) -> None:
        """Takes the next page of the listing."""
        self._entries.add_page(page)
        self._seen.extend(page.entries)

    def finish(self) -> tuple[list[Found], list[Remark]]:
        """What is used, and what is wrong with entries."""
        remarks = list(self._entries.finish_listing().remarks)
        skipped = {each.key for each in remarks if each.skipped}
        best: dict[str, Found] = {}
        for found in _readable(entry for entry in self._seen if entry.key not in skipped):
            rival = best.setdefault(found.endpoint.address, found)
            if rival is not found:
                winner, loser = _ranked(found, rival)
                best[found.endpoint.address] = winner
                remarks.append(Remark(loser.entry.key, _hidden_by(winner)))
        return [best[each.address] for each in self._entries.endpoints()], remarks


class Survey:
    """How many endpoints each of many services has."""

    def __init__(self, rules: EntryRules) -> None:
        self._rules = rules
        self._services: dict[str, ServiceEntries] = {}
        self._nobodys: list[Remark] = []

    def add_page(self, page: Page) -> None:
        """Takes the next page of the listing."""
        for service, entries in self._by_service(page).items():
            if service not in self._services:
                self._services[service] = ServiceEntries(service, self._rules)
                self._services[service].begin_listing()
            self._services[service].add_page(Page(page.revision, tuple(entries)))

    def finish(self) -> tuple[list[ServiceSummary], list[Remark]]:
        """The services by name, and the keys that belong to none."""
        summaries = [_summary(name, self._services[name]) for name in sorted(self._services)]
        return summaries, self._nobodys

    def _by_service(self, page: Page) -> dict[str, list[KeyValue]]:
        services: dict[str, list[KeyValue]] = {}
        for entry in page.entries:
            try:
                service, _ = decode_key(entry.key)
            except MalformedEndpointError as error:
                self._nobodys.append(Remark(entry.key, str(error)))
            else:
                services.setdefault(service, []).append(entry)
        return services


def remarks_public(remarks: Iterable[Remark]) -> list[dict[str, Any]]:
    """What is wrong with entries, for JSON."""
    return [
        {"key": shown_key(each.key), "reason": each.reason, "skipped": each.skipped}
        for each in remarks
    ]


def _summary(service: str, entries: ServiceEntries) -> ServiceSummary:
    remarks = entries.finish_listing().remarks
    draining = sum(endpoint.draining for endpoint in entries.endpoints())
    return ServiceSummary(service, len(entries), draining, remarks)


def _readable(entries: Iterable[KeyValue]) -> Iterator[Found]:
    """What can be read of `entries`; beyond the limits of a service, not every one was."""
    for entry in entries:
        with suppress(MalformedEndpointError):
            yield Found(decode_value(entry.value), entry)


def _ranked(one: Found, other: Found) -> tuple[Found, Found]:
    """The one that counts, as `discovery.address_book` says, and the other."""
    return (one, other) if _rank(one) > _rank(other) else (other, one)


def _rank(found: Found) -> tuple[Rank, bytes]:
    entry = found.entry
    return Rank(entry.lease_id != 0, entry.mod_revision), entry.key


def _hidden_by(winner: Found) -> str:
    return f"the same address counts under {shown_key(winner.entry.key)}"
