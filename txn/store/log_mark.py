"""A note beside a decision log of how far it was durable: what no page of the log can say.

A log that has lost its end looks like one that was never longer. SQLite takes a file of
frames that was cut, or whose middle was damaged, for one that ends there, which is right
after a power cut and wrong for what was forced before it. So after each force the id of a
row that it wrote is put down here, and a log without that row has lost something; so has
one in which a claim is open of which this says that it was closed.

Not forced: after a power cut the note may be older than the log, or unreadable. It never
says more than was forced, so that it accuses no log that is whole: not even one that others
write to, as long as the notes are read before the log is.

Each process that writes to a log has a note of its own.
"""

from __future__ import annotations

import glob
import logging
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_SIZE_BYTES = 128
_CHECKSUM_BYTES = 4
_CLOSED = " closed"

_log = logging.getLogger(__name__)


class Noted(NamedTuple):
    """A row that was durable, whether it was a claim that had been closed, and where it says so."""

    txn_id: str
    closed: bool
    mark: Path


class LogMark:
    """The note of one process that writes to the log at `path`."""

    def __init__(self, path: Path, writer: str = "") -> None:
        """It is in `<path>.<writer>.mark`, or in `<path>.mark` where only one may write."""
        self.path = Path(f"{path}.{writer}.mark" if writer else f"{path}.mark")
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, txn_id: str, *, closed: bool = False) -> None:
        """Puts down a row that is durable. Never raises: the row is no less durable for it."""
        noted = txn_id + _CLOSED if closed else txn_id
        text = noted.encode().ljust(_SIZE_BYTES - _CHECKSUM_BYTES, b"\0")
        try:
            os.pwrite(self._descriptor, _checksum(text) + text, 0)
        except OSError as error:
            _log.warning("%s is not written: %s", self, error)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._descriptor)

    def __str__(self) -> str:
        return str(self.path)


def all_noted(path: Path) -> list[Noted]:
    """What the notes beside the log at `path` say, whoever wrote them. Raises OSError.

    To be read before the log is looked at.
    """
    name = glob.escape(path.name)
    marks = {*path.parent.glob(f"{name}.mark"), *path.parent.glob(f"{name}.*.mark")}
    found = [_noted(mark, mark.read_bytes()[:_SIZE_BYTES]) for mark in sorted(marks)]
    return [each for each in found if each is not None]


def _noted(path: Path, found: bytes) -> Noted | None:
    if not found.strip(b"\0"):
        return None
    checksum, text = found[:_CHECKSUM_BYTES], found[_CHECKSUM_BYTES:]
    if len(found) == _SIZE_BYTES and checksum == _checksum(text):
        with suppress(UnicodeDecodeError):
            noted = text.rstrip(b"\0").decode()
            return Noted(noted.removesuffix(_CLOSED), noted.endswith(_CLOSED), path)
    _log.warning("%s cannot be read: whether the log has lost its end is not known", path)
    return None


def _checksum(text: bytes) -> bytes:
    return zlib.crc32(text).to_bytes(_CHECKSUM_BYTES, "big")
