"""What a backup says of itself, in `manifest.json`; written last: without it there is none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from services.backup.errors import Damaged, NotABackup

FILE = "manifest.json"
FORMAT = 1
MANIFEST_MAX_BYTES = 1024 * 1024


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
            said = json.loads(file.read(MANIFEST_MAX_BYTES))
        if said.pop("format") != FORMAT:
            raise NotABackup(f"{path} is of a format that this program does not know")
        files = {name: File(**each) for name, each in said.pop("files").items()}
        manifest = Manifest(files=files, **said)
    except OSError as error:
        raise NotABackup(f"{directory} is no finished backup: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise NotABackup(f"{path} is not the manifest of a backup") from None
    if any(Path(name).name != name for name in files):
        raise NotABackup(f"{path} names a file that is not beside it")
    return manifest
