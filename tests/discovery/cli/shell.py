"""The command line as a person meets it: as a process, or run on the test's own loop."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from discovery.cli.arguments import parse
from discovery.cli.console import Console
from discovery.cli.errors import CommandError
from discovery.cli.running import perform

WAIT_S: Final = 30.0


class Result(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


async def said(*arguments: str, **environ: str) -> Result:
    """Runs a command here, which costs no interpreter."""
    out, err = io.StringIO(), io.StringIO()
    plain = Console(out, err)
    try:
        options = parse(arguments, environ)
        code = await perform(options, Console(out, err, options.json))
    except CommandError as error:
        plain.note(str(error))
        code = error.exit_code
    return Result(code, out.getvalue(), err.getvalue())


class Running:
    """A command that goes on."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        """The next line it writes, without its end; empty when there is none."""
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            return (await self._process.stdout.readline()).decode().rstrip("\n")

    async def error_line(self) -> str:
        """The same of stderr."""
        assert self._process.stderr is not None
        async with asyncio.timeout(WAIT_S):
            return (await self._process.stderr.readline()).decode().rstrip("\n")

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def stop_reading(self) -> None:
        """Closes our end of its output."""
        # asyncio has no way to say so but through the transport of the pipe.
        transport = self._process._transport  # type: ignore[attr-defined]
        transport.get_pipe_transport(1).close()

    async def end(self) -> Result:
        """Waits until it ends by itself; what it wrote and was not read yet."""
        async with asyncio.timeout(WAIT_S):
            out, err = await self._process.communicate()
        assert self._process.returncode is not None
        return Result(self._process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def running(*arguments: str, **environ: str) -> AsyncIterator[Running]:
    """A process of the command; killed on leaving, should it still be there."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "discovery", *arguments),
        env=_environment(environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ran(*arguments: str, **environ: str) -> Result:
    """Runs a process of the command to its end."""
    async with running(*arguments, **environ) as one:
        return await one.end()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "TALLYSTICK" not in name}
    return kept | dict(more)
