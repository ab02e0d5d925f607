"""Finds endpoints in a file: where there is no registry, or another program writes the list.

The file is JSON, an address or a whole endpoint for each:

    {"tallystick/ledger": ["10.0.0.7:50051", {"address": "10.0.0.8:50051", "zone": "a"}]}

It is looked at every `poll_every_s`, through links, so that a file replaced by renaming
and the links of a mounted Kubernetes ConfigMap are followed like one edited in place.
The standard library has no notification of changes, and one fstat a second costs nothing.

A file is taken whole or not at all, since half a list of payees is worse than the list
of a minute ago: while it is missing, malformed or too large, the last good list stands,
with the reason in the state's `error`. A well-formed file is believed, an empty list too.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from discovery.endpoint import (
    MAX_FIELD_CHARS,
    Endpoint,
    NamingError,
    service_prefix,
)
from discovery.entries import MAX_ENDPOINTS_PER_SERVICE
from discovery.files import UnusableFileError, open_at_once, reason_of
from discovery.listeners import ListenerSet
from discovery.resolver import Listener, ResolverState, Subscription
from discovery.tasks import spawn

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
MAX_SERVICES: Final = 1000

_FIELDS = frozenset(field.name for field in fields(Endpoint))

_log = logging.getLogger(__name__)

Services = Mapping[str, tuple[Endpoint, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResolverConfig:
    """The file is looked at each `poll_every_s`; raises ValueError when that is not above 0."""

    poll_every_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.poll_every_s > 0:
            raise ValueError("poll_every_s must be above 0")


class FileResolver:
    """A `discovery.resolver.Resolver` over the file at `path`. Needs a running event loop.

    The file is read in a thread, and only while somebody listens. A field of an endpoint
    that is not one of Endpoint's makes the file malformed: a person may have mistyped it.
    """

    def __init__(self, path: Path | str, *, config: FileResolverConfig | None = None) -> None:
        self._path = Path(path)
        self._config = config or FileResolverConfig()
        self._services: dict[str, ListenerSet] = {}
        self._last = _Reading()
        # Whether `_last` is of now rather than of when somebody last listened.
        self._is_current = False
        self._following: asyncio.Task[None] | None = None
        self._closed = False

    def subscribe(self, service: str, listener: Listener) -> Subscription:
        """Reports the state of `service` to `listener`, from now on.

        Raises InvalidServiceNameError, ValueError beyond MAX_SERVICES, RuntimeError
        after `close`.
        """
        if self._closed:
            raise RuntimeError("the resolver is closed")
        listeners = self._listeners_of(service)
        subscription = listeners.add(listener)
        if self._is_current:
            listeners.publish(self._last.state_of(service))
        if self._following is None:
            self._following = spawn(self._follow(), f"following {self._path}")
        return subscription

    async def close(self) -> None:
        """Ends every subscription."""
        self._closed = True
        for listeners in self._services.values():
            listeners.close()
        self._services.clear()
        if (following := self._stop()) is not None:
            await asyncio.wait([following])

    def _listeners_of(self, service: str) -> ListenerSet:
        listeners = self._services.get(service)
        if listeners is None:
            service_prefix(service)
            if len(self._services) >= MAX_SERVICES:
                raise ValueError(f"more than {MAX_SERVICES} services")
            listeners = self._services[service] = ListenerSet(lambda: self._leave(service))
        return listeners

    def _leave(self, service: str) -> None:
        del self._services[service]
        if not self._services:
            self._stop()

    def _stop(self) -> asyncio.Task[None] | None:
        following, self._following = self._following, None
        self._is_current = False
        if following is not None:
            following.cancel()
        return following

    async def _follow(self) -> None:
        while True:
            former, self._last = self._last, await asyncio.to_thread(_look, self._path, self._last)
            self._is_current = True
            self._log(former.error)
            for service, listeners in self._services.items():
                listeners.publish(self._last.state_of(service))
            await asyncio.sleep(self._config.poll_every_s)

    def _log(self, former_error: str | None) -> None:
        error = self._last.error
        if error is not None and error != former_error:
            _log.warning("cannot take the endpoints of %s", error)
        elif error is None and former_error is not None:
            _log.info("the endpoints of %s are taken again", self._path)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was last read. `services` are None before the first good list.

    `mark` tells one version of the file from the next; with a clock as coarse as a file
    system's it may miss a second change, so that it counts only when seen twice
    (`settled`), and until then `digest` decides.
    """

    services: Services | None = None
    error: str | None = None
    mark: tuple[int, ...] | None = None
    settled: bool = False
    digest: bytes = b""

    def state_of(self, service: str) -> ResolverState:
        if self.services is None:
            return ResolverState(error=self.error)
        return ResolverState(self.services.get(service, ()), resolved=True, error=self.error)


def _look(path: Path, last: _Reading) -> _Reading:
    """Reads the file if it may have changed since `last`. Blocks."""
    try:
        mark, content = _read(path, last.mark if last.settled else None)
    except (OSError, UnusableFileError) as error:
        return _Reading(last.services, f"{path}: {reason_of(error)}")
    if content is None:
        return last
    now = replace(last, mark=mark, settled=mark == last.mark, digest=_digest(content))
    if now.digest == last.digest:
        return now
    try:
        return replace(now, services=_parse(content), error=None)
    except UnusableFileError as error:
        return replace(now, error=f"{path}: {error}")


def _read(path: Path, known: tuple[int, ...] | None) -> tuple[tuple[int, ...], bytes | None]:
    """The file's mark, and its content unless the mark is `known`.

    Raises OSError and UnusableFileError.
    """
    with open(path, "rb", opener=open_at_once) as file:
        status = os.fstat(file.fileno())
        times_ns = status.st_mtime_ns, status.st_ctime_ns
        mark = (status.st_dev, status.st_ino, status.st_size, *times_ns)
        if mark == known:
            return mark, None
        if not stat.S_ISREG(status.st_mode):
            raise UnusableFileError("not a regular file")
        content = file.read(MAX_FILE_BYTES + 1) if status.st_size <= MAX_FILE_BYTES else None
    if content is None or len(content) > MAX_FILE_BYTES:
        raise UnusableFileError(f"more than {MAX_FILE_BYTES} bytes")
    return mark, content


def _parse(content: bytes) -> Services:
    """The endpoints of each service, by address; of two with one address the last counts."""
    try:
        whole = json.loads(content, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise UnusableFileError(f"not JSON: {error}") from None
    if not isinstance(whole, dict):
        raise UnusableFileError("not a JSON object")
    if len(whole) > MAX_SERVICES:
        raise UnusableFileError(f"more than {MAX_SERVICES} services")
    return {service: _endpoints(service, listed) for service, listed in whole.items()}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(whole := dict(pairs)) < len(pairs):
        raise ValueError("the same name twice in one object")
    return whole


def _endpoints(service: str, listed: Any) -> tuple[Endpoint, ...]:
    try:
        # First, since whoever is told of an error shall not be shown just anything.
        service_prefix(service)
    except NamingError as error:
        raise UnusableFileError(str(error)) from None
    if not isinstance(listed, list) or len(listed) > MAX_ENDPOINTS_PER_SERVICE:
        raise UnusableFileError(f"{service}: not a list of at most {MAX_ENDPOINTS_PER_SERVICE}")
    where, by_address = service, {}
    try:
        for number, each in enumerate(listed):
            where = f"{service}[{number}]"
            endpoint = _endpoint(each)
            by_address[endpoint.address] = endpoint
    except (NamingError, UnusableFileError) as error:
        raise UnusableFileError(f"{where}: {error}") from None
    return tuple(by_address[address] for address in sorted(by_address))


def _endpoint(listed: Any) -> Endpoint:
    """Raises MalformedEndpointError and UnusableFileError."""
    if isinstance(listed, str):
        return Endpoint(listed)
    if not isinstance(listed, dict) or "address" not in listed:
        raise UnusableFileError("neither an address nor an object with one")
    if unknown := sorted(listed.keys() - _FIELDS):
        raise UnusableFileError(f"unknown field {unknown[0][:MAX_FIELD_CHARS]!r}")
    if isinstance(listed.get("services"), list):
        listed["services"] = tuple(listed["services"])
    return Endpoint(**listed)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
