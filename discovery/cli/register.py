"""`register`: keeps an endpoint registered until a signal comes, then takes it out."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from discovery.cli.connection import Connection
from discovery.cli.console import Console
from discovery.cli.errors import DONE, UnreachableError, UsageError
from discovery.cli.stopping import stopped_by_signal
from discovery.endpoint import Endpoint, MalformedEndpointError, encode_key
from discovery.registrar import Registrar
from discovery.tasks import first_of


async def run(connection: Connection, options: argparse.Namespace, console: Console) -> int:
    """Registers and waits.

    Raises FailedError when etcd refuses us, UnreachableError when it cannot be told that
    the endpoint has gone. An etcd that is away at the start is waited for.
    """
    service, endpoint = options.service, _endpoint(options)
    registrar = _registrar(connection, options.ttl)
    # Until there is something to take out, an interrupt is an interrupt.
    await _check_welcome(connection, service, endpoint, console)
    with stopped_by_signal() as stop:
        registration = await registrar.register(service, endpoint)
        try:
            await first_of(registration.registered, stop)
            if registration.registered.is_set():
                _tell("registered", service, endpoint, console)
            await stop.wait()
        finally:
            await registration.deregister()
            gone = registration.gone.is_set()
            await registrar.close()
    if not gone:
        raise UnreachableError(
            f"etcd does not answer; {endpoint.address} goes with its lease, in {options.ttl:g} s"
        )
    _tell("deregistered", service, endpoint, console)
    return DONE


async def _check_welcome(
    connection: Connection, service: str, endpoint: Endpoint, console: Console
) -> None:
    """A registrar tries for ever; what a person typed wrong should be told at once."""
    key = encode_key(service, endpoint)
    try:
        present = await connection.ask(lambda: connection.client.get(key))
    except UnreachableError as error:
        console.note(f"{error}; will keep trying")
        return
    if present is not None:
        console.note(f"replaces what is at {key.decode()}")


def _endpoint(options: argparse.Namespace) -> Endpoint:
    try:
        return Endpoint(
            options.address,
            id=options.id,
            zone=options.zone,
            weight=options.weight,
            version=options.version,
            started_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        )
    except MalformedEndpointError as error:
        raise UsageError(str(error)) from None


def _registrar(connection: Connection, ttl_s: float) -> Registrar:
    try:
        return Registrar(connection.client, ttl_s)
    except ValueError as error:
        raise UsageError(f"--ttl: {error}") from None


def _tell(event: str, service: str, endpoint: Endpoint, console: Console) -> None:
    console.tell(
        f"{event} {service} {endpoint.address}",
        {"event": event, "service": service, "address": endpoint.address},
    )
