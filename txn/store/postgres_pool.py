"""A bounded number of connections, each used by one thread at a time.

Group commit needs one connection; a transaction that is prepared needs one to itself while its
statements run. Who asks for one waits in line, for so long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from txn.errors import Overloaded, StoreClosed
from txn.store.postgres import Session

# How long a message waits for a connection; then nothing was done, and who sent it asks again.
CONNECTION_WAIT_MAX_S = 1.5
# Messages that wait for a connection; the next one is turned away.
CONNECTION_WAITERS_MAX = 4_096

T = TypeVar("T")


class PostgresPool:
    """See the module's docstring. Must be made on the loop that uses it."""

    def __init__(self, connect: Callable[[], Session], size: int) -> None:
        """`connect` makes a Session, which reaches for the server when it is first used."""
        self._idle = [connect() for _ in range(size)]
        self._size = size
        self._free = asyncio.Semaphore(size)
        self._waiting = 0
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="postgres-pool")
        self._closed = False

    async def run(self, work: Callable[[Session], T]) -> T:
        """What `work` returns, on a thread of its own. Raises Overloaded, or what it raises.

        It runs to its end, whoever gives up waiting for that.
        """
        await self._acquire()
        if self._closed:
            self._free.release()
            raise StoreClosed("the connections are closed")
        # The one that was used last: what is not needed stays unconnected.
        session = self._idle.pop()

        def done(ran: asyncio.Future[T]) -> None:
            self._idle.append(session)
            self._free.release()
            # Looked at, since whoever gave up waiting for it does not.
            ran.exception()

        running = asyncio.get_running_loop().run_in_executor(self._threads, work, session)
        running.add_done_callback(done)
        return await asyncio.shield(running)

    async def close(self) -> None:
        """Waits for what runs, which the server's timeouts end, and closes the connections."""
        self._closed = True
        for _ in range(self._size):
            await self._free.acquire()
        for session in self._idle:
            await asyncio.to_thread(session.close)
        self._threads.shutdown()
        for _ in range(self._size):
            # Whoever still waits hears that it is closed.
            self._free.release()

    async def _acquire(self) -> None:
        if self._waiting >= CONNECTION_WAITERS_MAX:
            raise Overloaded("too many wait for a connection to the database")
        self._waiting += 1
        try:
            async with asyncio.timeout(CONNECTION_WAIT_MAX_S):
                await self._free.acquire()
        except TimeoutError:
            raise Overloaded("no connection to the database came free in time") from None
        finally:
            self._waiting -= 1
