"""`drain`: marks an endpoint that another process registered, under that one's lease."""

from __future__ import annotations

import argparse
from typing import Final

from discovery.cli.connection import Connection
from discovery.cli.console import Console
from discovery.cli.errors import DONE, FailedError
from discovery.cli.marking import marked
from discovery.cli.survey import Found, ServiceSurvey
from discovery.cli.text import shown_key
from discovery.endpoint import MalformedEndpointError, service_prefix
from discovery.entries import EntryRules

# Its owner may write at the same moment, but not again and again.
MAX_TRIES: Final = 5


async def run(connection: Connection, options: argparse.Namespace, console: Console) -> int:
    """Marks it, or takes the mark away. Raises FailedError when it is not there."""
    service, address, draining = options.service, options.address, not options.undo
    for _ in range(MAX_TRIES):
        found = await _find(connection, service, address)
        changed = await _mark(connection, found, draining)
        if changed is not None:
            _report(found, service, draining, changed, console)
            return DONE
    raise FailedError(f"{service} {address} changes all the time; try again")


async def _mark(connection: Connection, found: Found, draining: bool) -> bool | None:
    """True when it was written, False when it was so before, None to look again."""
    try:
        value = marked(found.entry.value, draining=draining)
    except MalformedEndpointError as error:
        raise FailedError(f"{found.endpoint.address}: {error}") from None
    if value == found.entry.value:
        return False
    entry = found.entry
    written = await connection.ask(lambda: connection.client.replace(entry, value))
    return True if written else None


async def _find(connection: Connection, service: str, address: str) -> Found:
    """The endpoint at `address`, whatever its key: Go users name keys freely."""
    survey = ServiceSurvey(service, EntryRules())
    for page in await connection.pages(service_prefix(service)):
        survey.add_page(page)
    for found in survey.finish()[0]:
        if found.endpoint.address == address:
            return found
    raise FailedError(f"{service} has no endpoint {address}")


def _report(found: Found, service: str, draining: bool, changed: bool, console: Console) -> None:
    address = found.endpoint.address
    state = "is draining" if draining else "takes new work"
    console.tell(
        f"{service} {address} {state}{'' if changed else ' already'}",
        {
            "service": service,
            "address": address,
            "key": shown_key(found.entry.key),
            "draining": draining,
            "changed": changed,
        },
    )
