"""Where a command writes: lines or JSON to one stream, complaints to another.

Everything goes through here, and nothing leaves unescaped. Each line is flushed, since
whoever reads a watch through a pipe wants it now.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TextIO

from discovery.cli.text import printable

_PROGRAM = "discovery"


@dataclass(frozen=True, slots=True)
class Console:
    """The two streams, and which form was asked for.

    Every method raises BrokenPipeError when nobody reads any more.
    """

    out: TextIO
    err: TextIO
    as_json: bool = False

    def lines(self, lines: Iterable[str]) -> None:
        """Writes each as one line."""
        self.out.write("".join(f"{printable(line)}\n" for line in lines))
        self.out.flush()

    def record(self, fields: Mapping[str, object]) -> None:
        """Writes one JSON object on one line, in ASCII."""
        self.out.write(json.dumps(fields, separators=(",", ":")) + "\n")
        self.out.flush()

    def tell(self, line: str, fields: Mapping[str, object]) -> None:
        """Writes whichever of the two was asked for."""
        if self.as_json:
            self.record(fields)
        else:
            self.lines([line])

    def note(self, text: str) -> None:
        """Says something to the person, on stderr."""
        self.err.write(f"{_PROGRAM}: {printable(text)}\n")
        self.err.flush()


class NoteHandler(logging.Handler):
    """Turns what the library logs into notes of one line."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Notes the message, and of an exception what it says."""
        error = record.exc_info[1] if record.exc_info else None
        # A reader that left is noticed by the command, at its own next line.
        with contextlib.suppress(OSError, ValueError):
            self._console.note(record.getMessage() + (f": {error!r}" if error else ""))
