"""Reading files that somebody else may have put there: never waiting, and saying why not."""

from __future__ import annotations

import os


class UnusableFileError(Exception):
    """A file or directory that must not or cannot be used; the text says why."""


def open_at_once(path: str, flags: int) -> int:
    """An opener for `open`: opening a pipe would otherwise wait for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def reason_of(error: Exception) -> str:
    """What to tell people: the system's words without the path, or ours."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
