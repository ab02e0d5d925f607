"""Runs a command against etcd: one connection, one event loop, the library's log as notes."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from discovery.cli.connection import Connection
from discovery.cli.console import Console, NoteHandler

Command: TypeAlias = Callable[[Connection, argparse.Namespace, Console], Awaitable[int]]


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command to its end; returns the exit code.

    Raises CommandError, BrokenPipeError, KeyboardInterrupt.
    """
    log, handler = logging.getLogger("discovery"), NoteHandler(console)
    log.addHandler(handler)
    try:
        return asyncio.run(perform(options, console))
    finally:
        log.removeHandler(handler)


async def perform(options: argparse.Namespace, console: Console) -> int:
    """The same on a running event loop."""
    # Each command stands in the module of its name, and `ls` needs no registrar.
    command: Command = importlib.import_module(f"discovery.cli.{options.command}").run
    connection = Connection(options)
    try:
        return await command(connection, options, console)
    finally:
        await connection.client.close()
