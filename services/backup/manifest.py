"""What a backup says of itself, in `manifest.json`; written last: without it there is none."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from services.backup.errors import Damaged, NotABackup

FILE = "manifest.json"
FORMAT = 1
MANIFEST_MAX_BYTES = 1024 * 1024
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,99}\.[a-z]{1,9}")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a backup."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was copied when, and what was found in it then.

    `kind` is that of the stores, `taken_at` UTC, `version` that of the program, `pause_ms` how
    long writers waited. `stores` has the version of each component in each of them, `found` how
    often which kind of finding (txn/reconcile.py).
    """

    kind: str
    taken_at: str
    version: str
    pause_ms: float
    stores: Mapping[str, Mapping[str, int]]
    found: Mapping[str, int]
    files: Mapping[str, File]

    def encoded(self) -> bytes:
        """The content of the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode() + b"\n"


def described(path: Path) -> File:
    """A file as it is now. Raises OSError."""
    with path.open("rb") as file:
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def verified(directory: Path) -> Manifest:
    """The manifest of a backup whose files are as it says. Raises NotABackup or Damaged."""
    manifest = _read(directory)
    for name, file in manifest.files.items():
        try:
            if described(directory / name) != file:
                raise Damaged(f"{directory / name} is not as it was written")
        except OSError as error:
            raise Damaged(f"{directory / name} cannot be read: {error.strerror}") from None
    return manifest


def _read(directory: Path) -> Manifest:
    path = directory / FILE
    try:
        with path.open("rb") as file:
            content = file.read(MANIFEST_MAX_BYTES)
    except OSError as error:
        raise NotABackup(f"{directory} is no finished backup: {error.strerror}") from None
    try:
        return decoded(content)
    except NotABackup as error:
        raise NotABackup(f"{path} {error}") from None


def decoded(content: bytes) -> Manifest:
    """What `Manifest.encoded` has written. Raises NotABackup for anything else."""
    try:
        said = json.loads(content)
        if said.pop("format") != FORMAT:
            raise NotABackup("is of a format that this program does not know")
        files = {name: File(**each) for name, each in said.pop("files").items()}
        manifest = Manifest(files=files, **said)
        whole = _is_whole(manifest)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise NotABackup("is not the manifest of a backup")
    if not all(_NAME.fullmatch(name) for name in files):
        raise NotABackup("names a file that is not beside it")
    return manifest


def _is_whole(manifest: Manifest) -> bool:
    """Whether everything is of its type, and can be shown."""
    texts = [manifest.kind, manifest.taken_at, manifest.version]
    texts += [each.sha256 for each in manifest.files.values()]
    counts = [manifest.found, *manifest.stores.values()]
    numbers = [number for each in counts for number in each.values()]
    numbers += [each.size_bytes for each in manifest.files.values()]
    return (
        all(type(each) is str and each.isascii() and each.isprintable() for each in texts)
        and all(type(each) is int for each in numbers)
        and type(manifest.pause_ms) in (int, float)
        and math.isfinite(manifest.pause_ms)
    )
