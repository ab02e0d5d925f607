"""When a command that goes on for ever ends: a signal, or nobody reads its output."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopped_by_signal() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set, instead of what else they would do."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for each in _SIGNALS:
        loop.add_signal_handler(each, stop.set)
    try:
        yield stop
    finally:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)


@contextmanager
def reader_left(out: TextIO) -> Iterator[asyncio.Event]:
    """An event that is set when `out` is a pipe and its reader has gone.

    A write would tell, but the next one may be hours away (`watch ... | head -1`).
    """
    loop, left = asyncio.get_running_loop(), asyncio.Event()
    pipe = _pipe(out)

    def notice() -> None:
        # Once is enough, and the descriptor would report it for ever.
        loop.remove_reader(pipe)
        left.set()

    if pipe >= 0:
        # Nothing can be read from the end one writes to: what it reports is the hang-up.
        loop.add_reader(pipe, notice)
    try:
        yield left
    finally:
        if pipe >= 0:
            loop.remove_reader(pipe)


def _pipe(out: TextIO) -> int:
    """The descriptor of `out` when it is a pipe, else -1."""
    try:
        descriptor = out.fileno()
    except (OSError, ValueError):
        return -1
    return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else -1
