"""Directories that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.backup.errors import NotTaken

# What is found under such a name was not finished, and may be deleted.
UNFINISHED = ".unfinished"


def force(path: Path) -> None:
    """A file, or the names in a directory, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Where to write what then becomes `path`, durably; removed if the body raises.

    Raises NotTaken when there is something at `path` already, or nothing can be written.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        if path.exists():
            raise NotTaken(f"{path} is there already")
        unfinished.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise NotTaken(f"{unfinished} is there: somebody writes it, or did not finish") from None
    except OSError as error:
        raise NotTaken(f"{path} cannot be written: {error.strerror}") from error
    try:
        yield unfinished
        for file in unfinished.iterdir():
            force(file)
        force(unfinished)
        unfinished.rename(path)
        force(path.parent)
    except OSError as error:
        raise NotTaken(f"{path} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
