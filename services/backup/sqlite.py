"""Backups of books in SQLite files: a directory with one file for each store and a manifest."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from services.backup import manifest as manifests
from services.backup.errors import Damaged, NotEmpty, NothingToBackUp, NotTaken
from services.backup.manifest import Manifest, StoreFile, digest_of
from txn.errors import StoreError
from txn.store import sqlite_backup
from txn.store.sqlite import connect_to_read

KIND = "sqlite"
UNFINISHED = ".unfinished"


def stores_of(home: Path) -> dict[str, Path]:
    """The books below a home, by the service that keeps them. Raises NothingToBackUp."""
    found = {path.stem: path for path in sorted((home / "data").glob("*.db"))}
    if not found:
        raise NothingToBackUp(f"there are no books in {home}")
    return found


def files_of(directory: Path, manifest: Manifest) -> dict[str, Path]:
    """The stores in a backup."""
    return {name: directory / each.file for name, each in manifest.stores.items()}


def take(home: Path, into: Path, version: str) -> Manifest:
    """Copies all books of a mesh, which may be running, as they are at one instant.

    Raises BackupError; then `into` is not there, and what was begun may be deleted.
    """
    stores = stores_of(home)
    unfinished = into.with_name(into.name + UNFINISHED)
    try:
        if into.exists():
            raise NotTaken(f"{into} is there already")
        unfinished.mkdir(parents=True, mode=0o700)
        manifest = _copy(stores, unfinished, version)
        path = unfinished / manifests.FILE
        path.write_bytes(manifest.encoded())
        _force(path)
        _force(unfinished)
        unfinished.rename(into)
        _force(into.parent)
    except (OSError, sqlite3.Error, StoreError) as error:
        raise NotTaken(f"no backup was taken: {error}") from error
    return manifest


def _copy(stores: dict[str, Path], directory: Path, version: str) -> Manifest:
    taken_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    began_s = time.monotonic()
    with sqlite_backup.one_instant(list(stores.values())) as connections:
        pause_ms = round((time.monotonic() - began_s) * 1e3, 1)
        files = {}
        for name, source in zip(stores, connections, strict=True):
            target = directory / f"{name}.db"
            sqlite_backup.copy(source, target)
            files[name] = _described(target)
    return Manifest(KIND, taken_at, version, pause_ms, files)


def _described(path: Path) -> StoreFile:
    with closing(connect_to_read(path)) as connection:
        if found := sqlite_backup.check(connection):
            raise NotTaken(f"{path.name} is damaged: {found}")
        schema = dict(connection.execute("SELECT component, version FROM schema_version"))
    return StoreFile(path.name, path.stat().st_size, digest_of(path), schema)


def verify(directory: Path) -> Manifest:
    """Whether every file is there and as it was written. Raises NotABackup or Damaged."""
    manifest = manifests.read(directory)
    for each in manifest.stores.values():
        path = directory / each.file
        try:
            if (path.stat().st_size, digest_of(path)) != (each.size_bytes, each.sha256):
                raise Damaged(f"{path} is not as it was written")
        except OSError as error:
            raise Damaged(f"{path} cannot be read: {error.strerror}") from None
    return manifest


def restore(directory: Path, home: Path) -> Manifest:
    """Puts a verified backup into a home without books. Raises BackupError."""
    manifest = verify(directory)
    data = home / "data"
    unfinished = home / f"data{UNFINISHED}"
    try:
        if data.exists() and any(data.iterdir()):
            raise NotEmpty(f"{data} is not empty: a backup is restored into a home without books")
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        for name, each in manifest.stores.items():
            path = unfinished / f"{name}.db"
            shutil.copyfile(directory / each.file, path)
            _force(path)
        _force(unfinished)
        unfinished.replace(data)
        _force(home)
    except OSError as error:
        raise NotTaken(f"nothing was restored: {error}") from error
    return manifest


def _force(path: Path) -> None:
    """A file, or the names in a directory, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
