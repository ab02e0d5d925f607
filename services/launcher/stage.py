"""Where the demo is shown: numbered steps with their times, tables and a QR code.

In a terminal it has colours; into a pipe, or with NO_COLOR, it is plain text 100 wide.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import segno
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 100
TITLE_WIDTH = 64
QR_BORDER_MODULES = 2
# Two rows of modules to a line of text, by (upper is light, lower is light).
HALF_BLOCKS = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}


class Stage:
    """Shows what happens, and when: seconds since the stage was made."""

    def __init__(self, output: TextIO | None = None) -> None:
        out = output or sys.stdout
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(encoding="utf-8", errors="replace")  # half blocks, in any locale
        fancy = out.isatty() and not os.environ.get("NO_COLOR")
        self._console = Console(
            file=out,
            highlight=False,
            force_terminal=fancy,
            width=None if out.isatty() else PIPE_WIDTH,
        )
        self._started_s = time.monotonic()
        self._steps = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stage was made."""
        return time.monotonic() - self._started_s

    def tell(self, line: str = "") -> None:
        """One line as it is."""
        self._console.print(Text(line), soft_wrap=True)
        self._console.file.flush()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A numbered step; its line is printed with the time it took, once it is done."""
        self._steps += 1
        started_s = time.monotonic()
        yield
        took_ms = (time.monotonic() - started_s) * 1000
        line = Text.assemble(
            (f"{self._steps:>2}  ", "bold cyan"),
            f"{title:<{TITLE_WIDTH}} ",
            (f"{took_ms:7.1f} ms", "dim"),
        )
        self._console.print(line, soft_wrap=True)
        self._console.file.flush()

    def table(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; columns named with a leading ">" are flush right."""
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        for heading in headings:
            right = heading.startswith(">")
            table.add_column(heading.lstrip(">"), justify="right" if right else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print()
        self._console.print(table)
        self._console.print()

    def qr(self, content: str) -> None:
        """A QR code that a phone can scan off the screen."""
        self._console.print()
        for line in qr_lines(content):
            self._console.print(Text(f"    {line}", style="white on black"), no_wrap=True)
        self._console.print(Text(f"    {content}"), soft_wrap=True)
        self._console.print()


def qr_lines(content: str) -> list[str]:
    """A QR code in half blocks, light modules drawn: right on a dark background."""
    rows = [
        [not module for module in row]
        for row in segno.make(content, micro=False).matrix_iter(border=QR_BORDER_MODULES)
    ]
    if len(rows) % 2:
        rows.append([True] * len(rows[0]))
    return [
        "".join(HALF_BLOCKS[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]
