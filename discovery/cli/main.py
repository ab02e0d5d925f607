"""Runs one command: what was asked for, done or refused, as an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from discovery.cli.arguments import parse
from discovery.cli.console import Console
from discovery.cli.errors import DONE, INTERRUPTED, READER_LEFT, CommandError, FailedError


def main(
    argv: Sequence[str] | None = None,
    *,
    out: TextIO | None = None,
    err: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Runs `argv` to its end; returns the exit code. Raises nothing that was foreseen."""
    console = Console(out or sys.stdout, err or sys.stderr)
    try:
        return _run(argv, environ, console)
    except CommandError as error:
        return _failed(console, error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard(console)
        return READER_LEFT
    except OSError as error:
        # A full disk below a redirected output, for example.
        _discard(console)
        return _failed(console, FailedError(str(error)))


def _run(argv: Sequence[str] | None, environ: Mapping[str, str], console: Console) -> int:
    for stream in (console.out, console.err):
        _never_fail_to_encode(stream)
    try:
        options = parse(sys.argv[1:] if argv is None else argv, environ)
    except SystemExit:
        # --help has been printed; here, a reader that left is noticed.
        console.out.flush()
        return DONE
    # gRPC's core writes lines of its own to stderr unless told so before it is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # What speaks to etcd takes longest to import.
    from discovery.cli.running import run

    return run(options, Console(console.out, console.err, options.json))


def _failed(console: Console, error: CommandError) -> int:
    with contextlib.suppress(BrokenPipeError):
        console.note(str(error))
    return error.exit_code


def _never_fail_to_encode(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _discard(console: Console) -> None:
    """Sends what is still buffered nowhere, or Python would complain about it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (console.out, console.err):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
