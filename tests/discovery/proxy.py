"""A TCP proxy that can be cut, frozen or slowed down: the network between two processes."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 65536


class TcpProxy:
    """Forwards to `upstream` (`host:port`). `cut` refuses and breaks, `freeze` swallows.

    Everything is forwarded `delay_s` late.
    """

    def __init__(self, upstream: str, *, port: int = 0) -> None:
        """Listens on `port`, or on any."""
        host, _, upstream_port = upstream.rpartition(":")
        self._upstream = (host, int(upstream_port))
        self._server: asyncio.Server | None = None
        self._port = port
        self.delay_s = 0.0
        # To the upstream, and from it.
        self._flowing = asyncio.Event(), asyncio.Event()
        for direction in self._flowing:
            direction.set()
        self._pumps: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self._port}"

    async def heal(self) -> None:
        """Accepts again, on the same port, and lets everything flow."""
        self.delay_s = 0.0
        self.thaw()
        await self.accept()

    async def accept(self) -> None:
        """Listens on the same port again, where it does not."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Breaks every connection and refuses new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop()

    async def drop(self) -> None:
        """Breaks every connection; new ones are welcome."""
        pumps = tuple(self._pumps)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    def freeze(self, *, requests: bool = True, replies: bool = True) -> None:
        """Keeps connections open and forwards nothing: a path, or one way of it, went silent."""
        for direction, frozen in zip(self._flowing, (requests, replies), strict=True):
            if frozen:
                direction.clear()

    def thaw(self, *, requests: bool = True, replies: bool = True) -> None:
        """Forwards again, what was kept back first."""
        for direction, thawed in zip(self._flowing, (requests, replies), strict=True):
            if thawed:
                direction.set()

    async def __aenter__(self) -> Self:
        await self.heal()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.cut()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._track(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
            with contextlib.closing(up_writer):
                async with asyncio.TaskGroup() as both:
                    to, back = self._flowing
                    both.create_task(self._pump(reader, up_writer, to))
                    both.create_task(self._pump(up_reader, writer, back))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await flowing.wait()
                if writer.is_closing():
                    return  # the other way has ended meanwhile; uvloop would raise
                writer.write(chunk)
                await writer.drain()
        writer.close()

    def _track(self, pump: asyncio.Task[None]) -> None:
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
