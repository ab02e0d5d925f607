"""Processes that take part in a measurement, told and asked by lines of JSON.

Whoever is measured runs in a process of its own, so that nobody pays for the Python of
another and so that CPU time is that of one role alone. Points in time are CLOCK_MONOTONIC
in nanoseconds, which all processes of one machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

ANSWER_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 10.0
_MAX_LINE_BYTES: Final = 16 * 1024 * 1024


class Peer:
    """A child that runs `role` of a module of this package, started on entering.

    On leaving, its standard input is closed, which every role takes as the end; one
    that does not end in STOP_TIMEOUT_S is killed.
    """

    def __init__(self, module: str, role: str, **arguments: Any) -> None:
        self._command = [sys.executable, "-m", module, role, json.dumps(arguments)]
        self._process: asyncio.subprocess.Process | None = None

    async def hear(self, timeout_s: float | None = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """The next line it says. Raises RuntimeError when it has ended, TimeoutError."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout_s):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._command[2:4]} ended early")
        said: dict[str, Any] = json.loads(line)
        return said

    async def ask(self, command: str, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """Its answer to `command`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        return await self.hear(timeout_s)

    def kill9(self) -> None:
        """Ends it without warning."""
        assert self._process is not None
        self._process.kill()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE_BYTES,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


def tell(**what: Any) -> None:
    """Says one line to the parent."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def commands() -> AsyncIterator[str]:
    """What the parent asks, until it has no more to ask."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield line.decode().strip()


async def run_role(roles: Mapping[str, Callable[..., Awaitable[None]]]) -> None:
    """What a child does: the role and the arguments that `Peer` was given."""
    await roles[sys.argv[1]](**json.loads(sys.argv[2]))
