"""The way to etcd, as the command line describes it, and one question put to it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from discovery.cli.errors import FailedError, UnreachableError, UsageError
from discovery.etcd_client import EtcdClient
from discovery.etcd_config import EtcdClientConfig, EtcdTls, parse_endpoints
from discovery.etcd_types import EtcdError, Page, UnavailableError

MAX_PASSWORD_FILE_BYTES: Final = 4096
_MAX_REQUEST_TIMEOUT_S = 3.0

_Answer = TypeVar("_Answer")


class Connection:
    """A client of etcd, and how long to wait for it in all.

    Raises UsageError for options that make no sense. Opens nothing until used.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.members = options.etcd.replace(",", " ").split()
        self._timeout_s: float = options.timeout
        try:
            config = _config(options, len(self.members))
            parse_endpoints(self.members, config)
            self.client = EtcdClient(self.members, config=config)
        except ValueError as error:
            raise UsageError(str(error)) from None

    async def ask(self, question: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """The answer of the first member that gives one.

        Raises UnreachableError when none does in time, FailedError when etcd refuses.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask_each(question)
        except TimeoutError:
            raise self._unreachable(f"no answer within {self._timeout_s:g} s") from None
        except UnavailableError as error:
            raise self._unreachable(str(error)) from None
        except EtcdError as error:
            raise FailedError(f"etcd refused: {error}") from None

    async def pages(self, prefix: bytes) -> list[Page]:
        """Every key below `prefix`. Raises as `ask`."""

        async def listed() -> list[Page]:
            return [page async for page in self.client.pages(prefix)]

        return await self.ask(listed)

    async def _ask_each(self, question: Callable[[], Awaitable[_Answer]]) -> _Answer:
        for _ in self.members[1:]:
            try:
                return await question()
            except UnavailableError:
                # The client has turned to the next member.
                continue
        return await question()

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(f"etcd does not answer ({', '.join(self.members)}): {why}")


def _config(options: argparse.Namespace, members: int) -> EtcdClientConfig:
    # So that members that hang leave time to ask the last one.
    request_timeout_s = min(_MAX_REQUEST_TIMEOUT_S, options.timeout / max(1, members))
    return EtcdClientConfig(
        request_timeout_s=request_timeout_s,
        tls=_tls(options),
        username=options.user,
        password=_password(options) if options.user else "",
    )


def _tls(options: argparse.Namespace) -> EtcdTls | None:
    files: tuple[Path | None, ...] = (options.ca, options.cert, options.key)
    for file in files:
        if file is not None and not file.is_file():
            raise UsageError(f"there is no file {file}")
    if not any(files):
        return None
    return EtcdTls(ca=options.ca, certificate=options.cert, key=options.key)


def _password(options: argparse.Namespace) -> str:
    """The first line of the file, which counts before the environment."""
    if options.password_file is None:
        return str(options.password)
    try:
        with options.password_file.open("rb") as file:
            content = file.read(MAX_PASSWORD_FILE_BYTES)
        password = content.decode().split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--password-file: {error}") from None
    if not password:
        raise UsageError(f"--password-file: no password in {options.password_file}")
    return str(password)
