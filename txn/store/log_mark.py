"""A note beside a decision log of how far it was durable: what no page of the log can say.

A log that has lost its end looks like one that was never longer. SQLite takes a file of
frames that was cut, or whose middle was damaged, for one that ends there, which is right
after a power cut and wrong for what was forced before it. So after each force the id of a
row that it wrote is put down here, and a log without that row has lost something; so has
one in which a claim is open of which this says that it was closed.

Not forced: after a power cut the note may be older than the log, or unreadable. It never
says more than was forced, so that it accuses no log that is whole.
"""

from __future__ import annotations

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
    """A row that was durable, and whether it was a claim that had been closed."""

    txn_id: str
    closed: bool


class LogMark:
    """The note of the log at `path`, in `<path>.mark`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(f"{path}.mark")
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> Noted | None:
        """What was put down last; None when there is nothing that can be trusted."""
        found = os.pread(self._descriptor, _SIZE_BYTES, 0)
        if not found.strip(b"\0"):
            return None
        checksum, text = found[:_CHECKSUM_BYTES], found[_CHECKSUM_BYTES:]
        if len(found) == _SIZE_BYTES and checksum == _checksum(text):
            with suppress(UnicodeDecodeError):
                noted = text.rstrip(b"\0").decode()
                return Noted(noted.removesuffix(_CLOSED), closed=noted.endswith(_CLOSED))
        _log.warning("%s cannot be read: whether the log has lost its end is not known", self)
        return None

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


def _checksum(text: bytes) -> bytes:
    return zlib.crc32(text).to_bytes(_CHECKSUM_BYTES, "big")
