"""`ls`: the services below a prefix, or the endpoints of one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final, TypeVar

from discovery.cli.connection import Connection
from discovery.cli.console import Console
from discovery.cli.errors import DONE, FAILED
from discovery.cli.survey import (
    Found,
    ServiceSummary,
    ServiceSurvey,
    Survey,
    remarks_public,
)
from discovery.cli.text import shortened, shown_key, table
from discovery.endpoint import service_prefix
from discovery.entries import EntryRules, Remark

MAX_SHOWN_REMARKS: Final = 20

_AnySurvey = TypeVar("_AnySurvey", Survey, ServiceSurvey)


async def run(connection: Connection, options: argparse.Namespace, console: Console) -> int:
    """Lists; FAILED when the service asked for has no endpoint."""
    # What a resolver here would use and skip.
    rules = EntryRules(accept_loopback=connection.client.local)
    name: str = options.service
    if name.endswith("/"):
        survey = await _listed(connection, name.encode(), Survey(rules))
        _show_services(name, *survey.finish(), console)
        return DONE
    one = await _listed(connection, service_prefix(name), ServiceSurvey(name, rules))
    return _show_endpoints(name, *one.finish(), console)


async def _listed(connection: Connection, prefix: bytes, survey: _AnySurvey) -> _AnySurvey:
    for page in await connection.pages(prefix):
        survey.add_page(page)
    return survey


def _show_services(
    prefix: str, services: Sequence[ServiceSummary], nobodys: Sequence[Remark], console: Console
) -> None:
    if console.as_json:
        shown = [
            {
                "service": each.service,
                "endpoints": each.endpoints,
                "draining": each.draining,
                "skipped": each.skipped,
                "remarks": remarks_public(each.remarks),
            }
            for each in services
        ]
        console.record({"services": shown, "remarks": remarks_public(nobodys)})
        return
    if services:
        console.lines(table(_SERVICES, [_service_row(each) for each in services]))
    else:
        console.note(f"no service is registered below {prefix}")
    _explain([*(each for one in services for each in one.remarks), *nobodys], console)


def _show_endpoints(
    service: str, found: Sequence[Found], remarks: Sequence[Remark], console: Console
) -> int:
    if console.as_json:
        endpoints = [each.public() for each in found]
        record = {"service": service, "endpoints": endpoints, "remarks": remarks_public(remarks)}
        console.record(record)
    elif found:
        console.lines(table(_ENDPOINTS, [_endpoint_row(each) for each in found]))
    if not found:
        console.note(f"{service} has no endpoint")
    if not console.as_json:
        _explain(remarks, console)
    return DONE if found else FAILED


def _explain(remarks: Sequence[Remark], console: Console) -> None:
    """Says what is wrong with the first few."""
    for each in remarks[:MAX_SHOWN_REMARKS]:
        verb = "skipped" if each.skipped else "took"
        console.note(f"{verb} {shortened(shown_key(each.key))}: {shortened(each.reason)}")
    if len(remarks) > MAX_SHOWN_REMARKS:
        console.note(f"{len(remarks) - MAX_SHOWN_REMARKS} more remarks; --json has them all")


_SERVICES = ("SERVICE", "ENDPOINTS", "DRAINING", "SKIPPED")
_ENDPOINTS = ("ADDRESS", "ID", "ZONE", "WEIGHT", "VERSION", "DRAINING", "STARTED_AT", "LEASE")


def _service_row(each: ServiceSummary) -> list[str]:
    counts = (each.endpoints, each.draining, each.skipped)
    return [each.service, *map(str, counts)]


def _endpoint_row(found: Found) -> list[str]:
    each, lease_id = found.endpoint, found.entry.lease_id
    return [
        each.address,
        each.id,
        each.zone,
        str(each.weight),
        each.version,
        "yes" if each.draining else "",
        each.started_at,
        f"{lease_id:x}" if lease_id else "",
    ]
