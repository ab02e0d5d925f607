"""Taking a backup, restoring one, looking through books: the same for all kinds of stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from services.backup import manifest as manifests
from services.backup.books import Books
from services.backup.comparing import LOG, Comparison, Snapshot, compare
from services.backup.disk import new_directory
from services.backup.errors import NotABackup, NothingToBackUp, NotTaken
from services.backup.manifest import Manifest, described, verified
from txn.errors import LogDamaged

# The component that is in the schema of each store with branches.
PARTICIPANT = "participant"


def take(books: Books, into: Path, version: str) -> tuple[Manifest, Comparison]:
    """Copies all books, of a mesh that may be running, and says what was open in them.

    Raises BackupError; then `into` is not there.
    """
    with new_directory(into) as directory:
        with books.at_one_instant() as instant:
            taken_at = datetime.now(UTC).isoformat(timespec="milliseconds")
            found, schema = _compared(instant.stores), _schema(instant.stores)
            instant.copy(directory)
        manifest = Manifest(
            kind=books.kind,
            taken_at=taken_at,
            version=version,
            pause_ms=instant.pause_ms,
            stores=schema,
            found=dict(Counter(each.kind.name for each in found.findings)),
            files={path.name: described(path) for path in sorted(directory.iterdir())},
        )
        (directory / manifests.FILE).write_bytes(manifest.encoded())
    return manifest, found


def restore(books: Books, directory: Path) -> tuple[Manifest, Comparison]:
    """Puts a backup that is whole where there are no books, and looks through them.

    Raises BackupError.
    """
    manifest = verified(directory)
    if manifest.kind != books.kind:
        raise NotABackup(f"{directory} has books of {manifest.kind}, not of {books.kind}")
    books.restore([directory / name for name in manifest.files])
    return manifest, look(books)


def look(books: Books) -> Comparison:
    """Compares the log with the books of its participants, whether a mesh runs on them or not."""
    with books.at_one_instant() as instant:
        return _compared(instant.stores)


def participants_in(stores: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
    """Those stores that have branches."""
    schema = _schema(stores)
    return {name: store for name, store in stores.items() if PARTICIPANT in schema[name]}


def _schema(stores: Mapping[str, Snapshot]) -> dict[str, dict[str, int]]:
    query = "SELECT component, version FROM schema_version"
    return {name: dict(store.execute(query).fetchall()) for name, store in stores.items()}


def _compared(stores: Mapping[str, Snapshot]) -> Comparison:
    if LOG not in stores:
        raise NothingToBackUp(f"there is no decision log, {LOG}, among the books")
    try:
        return compare(stores[LOG], participants_in(stores))
    except (LogDamaged, ValueError) as error:
        raise NotTaken(f"a row cannot be read: {error}") from error
