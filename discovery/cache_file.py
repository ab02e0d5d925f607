"""The last known entries of each service on disk, so that a client starts while etcd is down.

What is kept are the raw registry entries of one service, one file each, so that what is
read goes through the same decoding and checks as what comes from the registry:

    {"version": 1, "service": "tallystick/ledger", "entries": [["<key>", "<value>"], ...]}

Bytes stand there as Latin-1 text, which keeps every byte and stays readable. Addresses
decide where payments go, so a file that anybody else could have written is not read.

A cache is a convenience: nothing here raises for the sake of a file or a disk. What
cannot be read is ignored and what cannot be written is skipped, each with a log line.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from discovery.files import UnusableFileError, open_at_once, reason_of

# 10,000 endpoints take about 4 MiB.
MAX_CACHE_FILE_BYTES: Final = 16 * 1024 * 1024
# Services whose files cannot be written and for whom that was logged.
MAX_COMPLAINTS: Final = 1000
# A temporary file older than this belongs to a writer that died.
ABANDONED_AFTER_S: Final = 3600.0

_VERSION: Final = 1
_MAX_NAME_CHARS = 80
# Ours alone, since old ones are swept and the directory may be shared.
_TEMPORARY = ".tallystick-tmp"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

_log = logging.getLogger(__name__)

Entries = tuple[tuple[bytes, bytes], ...]


class CacheFile:
    """Keeps the entries of services in `directory`, which is made when it is missing.

    The directory is made with mode 0700 and the files with 0600. Both methods block on
    the disk: call them in a thread. They may run at once in threads and processes that
    share the directory; the last writer wins.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._complained_of: set[str] = set()
        self._swept = False

    def load(self, service: str) -> Entries | None:
        """The entries last saved for `service`, or None when there are none to be trusted.

        A file is ignored, with one log line, when it is not a regular file of this user
        that only this user may write (nor its directory), larger than
        MAX_CACHE_FILE_BYTES, of another version, or damaged.
        """
        path = self._path(service)
        try:
            _check_directory(self._directory)
            return _decode(_read(path), service)
        except FileNotFoundError:
            return None
        except (OSError, UnusableFileError) as error:
            _log.warning("ignored the cache file %s: %s", path, reason_of(error))
            return None

    def save(self, service: str, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Replaces what is kept for `service`, whole or not at all.

        When that cannot be done what was there stays, and the first failure in a row is
        logged.
        """
        path = self._path(service)
        try:
            content = _encode(service, entries)
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_directory(self._directory)
            self._write(path, content)
        except (OSError, UnusableFileError) as error:
            self._complain(service, path, reason_of(error))
        else:
            self._complained_of.discard(service)

    def _path(self, service: str) -> Path:
        # The digest makes the name unique where case does not count, and the rest of it
        # is for people.
        digest = hashlib.sha256(service.encode(errors="surrogatepass")).hexdigest()[:32]
        readable = re.sub(r"[^A-Za-z0-9]+", "-", service)[:_MAX_NAME_CHARS]
        return self._directory / f"{readable}-{digest}.json"

    def _write(self, path: Path, content: bytes) -> None:
        # mkstemp makes the file with mode 0600 under a name nobody has.
        descriptor, name = tempfile.mkstemp(_TEMPORARY, path.stem, self._directory)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
                written_at_s = os.fstat(descriptor).st_mtime
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        self._sweep(written_at_s)

    def _sweep(self, now_s: float) -> None:
        """Once, removes what writers left that died between making a file and renaming it."""
        if self._swept:
            return
        self._swept = True
        for each in self._directory.glob(f"*{_TEMPORARY}"):
            with suppress(OSError):
                if now_s - each.lstat().st_mtime > ABANDONED_AFTER_S:
                    each.unlink()

    def _complain(self, service: str, path: Path, reason: str) -> None:
        if service not in self._complained_of and len(self._complained_of) < MAX_COMPLAINTS:
            self._complained_of.add(service)
            _log.warning("cannot write the cache file %s: %s", path, reason)


def _check_directory(directory: Path) -> None:
    """Raises UnusableFileError when others could put files there or exchange ours."""
    status = directory.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise UnusableFileError("its directory belongs to another user")
    # In a sticky directory (/tmp) others may add files, but not touch ours.
    if status.st_mode & _WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX:
        raise UnusableFileError("its directory is writable by others")


def _read(path: Path) -> bytes:
    """Raises OSError, and UnusableFileError when what is there must not be trusted."""
    with open(path, "rb", opener=_open) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnusableFileError("not a regular file")
        if status.st_uid != os.geteuid():
            raise UnusableFileError("it belongs to another user")
        if status.st_mode & _WRITABLE_BY_OTHERS:
            raise UnusableFileError("it is writable by others")
        content = file.read(MAX_CACHE_FILE_BYTES + 1)
    if len(content) > MAX_CACHE_FILE_BYTES:
        raise UnusableFileError(f"more than {MAX_CACHE_FILE_BYTES} bytes")
    return content


def _open(path: str, flags: int) -> int:
    return open_at_once(path, flags | os.O_NOFOLLOW)


def _encode(service: str, entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    # Looked at first, so that nothing huge is built only to be refused.
    if sum(len(key) + len(value) for key, value in entries) > MAX_CACHE_FILE_BYTES:
        raise UnusableFileError(f"more than {MAX_CACHE_FILE_BYTES} bytes")
    text = [[key.decode("latin-1"), value.decode("latin-1")] for key, value in entries]
    whole = {"version": _VERSION, "service": service, "entries": text}
    content = json.dumps(whole, separators=(",", ":")).encode()
    if len(content) > MAX_CACHE_FILE_BYTES:
        raise UnusableFileError(f"more than {MAX_CACHE_FILE_BYTES} bytes")
    return content


def _decode(content: bytes, service: str) -> Entries:
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        raise UnusableFileError("not JSON") from None
    if not isinstance(whole, dict) or whole.get("version") != _VERSION:
        raise UnusableFileError(f"not of version {_VERSION}")
    if whole.get("service") != service:
        raise UnusableFileError("it is of another service")
    entries = whole.get("entries")
    if not isinstance(entries, list):
        raise UnusableFileError("its entries are damaged")
    return tuple(_pair(each) for each in entries)


def _pair(entry: Any) -> tuple[bytes, bytes]:
    if isinstance(entry, list) and [str, str] == [type(part) for part in entry]:
        key, value = entry
        with suppress(UnicodeEncodeError):
            return key.encode("latin-1"), value.encode("latin-1")
    raise UnusableFileError("its entries are damaged")
