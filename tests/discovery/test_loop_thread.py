import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from discovery.loop_thread import LoopThread
from tests.discovery.helpers import WAIT_S


async def _nothing() -> None: ...


async def _fails() -> None:
    raise LookupError("on purpose")


def test_it_runs_what_it_is_given() -> None:
    """Results and exceptions come back to the thread that asked."""
    thread = LoopThread("test loop")

    async def answer() -> int:
        return 42

    assert thread.run(answer) == 42
    with pytest.raises(LookupError):
        thread.run(_fails)
    thread.close(_nothing)


def test_closing_ends_the_thread_whatever_the_last_work_does() -> None:
    """An error of the last work is raised, and nothing runs on."""
    thread = LoopThread("test loop")

    with pytest.raises(LookupError):
        thread.close(_fails)
    thread.close(_nothing)

    assert thread.closed
    assert "test loop" not in {each.name for each in threading.enumerate()}


def test_who_waits_when_it_closes_is_told() -> None:
    """Waiting ends with an error, not never."""
    thread = LoopThread("test loop")
    never, waiting = asyncio.Event(), threading.Event()

    async def wait() -> None:
        waiting.set()
        await never.wait()

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(thread.run, wait)
        assert waiting.wait(WAIT_S)
        thread.close(_nothing)
        with pytest.raises(RuntimeError, match="ended"):
            asked.result(WAIT_S)
