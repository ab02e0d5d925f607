"""What a backup says of itself, in `manifest.json`; written last: without it there is none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from services.backup.errors import NotABackup

FILE = "manifest.json"
FORMAT = 1
MANIFEST_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoreFile:
    """One file of a backup; `schema` is the version of each component in it."""

    file: str
    size_bytes: int
    sha256: str
    schema: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """`taken_at` is UTC; `pause_ms` how long writers waited; `kind` what the files are."""

    kind: str
    taken_at: str
    version: str
    pause_ms: float
    stores: Mapping[str, StoreFile]

    def encoded(self) -> bytes:
        """The content of the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode() + b"\n"


def read(directory: Path) -> Manifest:
    """The manifest of the backup in `directory`. Raises NotABackup."""
    path = directory / FILE
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(MANIFEST_MAX_BYTES))
        if said.pop("format") != FORMAT:
            raise NotABackup(f"{path} is of a format that this program does not know")
        stores = {name: StoreFile(**each) for name, each in said.pop("stores").items()}
        manifest = Manifest(stores=stores, **said)
    except OSError as error:
        raise NotABackup(f"{directory} is no finished backup: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise NotABackup(f"{path} is not the manifest of a backup") from None
    for each in stores.values():
        if Path(each.file).name != each.file:
            raise NotABackup(f"{path} names a file that is not in the backup")
    return manifest


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
