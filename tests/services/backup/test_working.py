"""Taking and restoring backups, where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.backup import working
from services.backup.disk import UNFINISHED
from services.backup.errors import (
    BackupError,
    Damaged,
    NotABackup,
    NotEmpty,
    NothingToBackUp,
    NotTaken,
)
from services.backup.manifest import FILE, verified
from services.backup.report import FINDINGS_SHOWN_MAX, lines, public
from services.backup.sqlite import SqliteBooks
from tests.services.backup.changing import execute

VERSION = "1.2.3"
MANY = FINDINGS_SHOWN_MAX + 1


def test_a_backup_says_what_is_in_it(home: Path, tmp_path: Path) -> None:
    """Kind, version, schema of each store, size and digest of each file; all of it again later."""
    manifest, found = working.take(SqliteBooks(home), tmp_path / "backup", VERSION)
    assert (0, 0, ()) == (found.transactions, found.branches, found.findings)
    assert ("sqlite", VERSION, {}) == (manifest.kind, manifest.version, manifest.found)
    assert {"ledger": 1, "participant": 3} == manifest.stores["ledger"]
    assert {"coordinator.db", "ledger.db", "order.db", "wallet.db"} == set(manifest.files)
    assert manifest == verified(tmp_path / "backup")
    assert {*manifest.files, FILE} == {each.name for each in (tmp_path / "backup").iterdir()}
    assert (
        public(manifest, None)["manifest"]["files"]["ledger.db"]
        in json.loads((tmp_path / "backup" / FILE).read_text())["files"].values()
    )


def test_the_books_are_the_owners_alone(home: Path, tmp_path: Path) -> None:
    """Nobody else looks into a backup, or into what was restored."""
    working.take(SqliteBooks(home), tmp_path / "backup", VERSION)
    working.restore(SqliteBooks(tmp_path / "new"), tmp_path / "backup")
    for directory in (tmp_path / "backup", tmp_path / "new", tmp_path / "new" / "data"):
        assert 0o700 == directory.stat().st_mode & 0o777


def flip(path: Path) -> None:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewrite(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    """Changes what the manifest says."""

    def damage(backup: Path) -> None:
        said = json.loads((backup / FILE).read_text())
        change(said)
        (backup / FILE).write_text(json.dumps(said))

    return damage


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lambda it: flip(it / "order.db"), Damaged, "order.db is not as it was written"),
        (lambda it: (it / "order.db").unlink(), Damaged, "order.db cannot be read"),
        (lambda it: (it / FILE).unlink(), NotABackup, "is no finished backup"),
        (lambda it: (it / FILE).write_text("[]"), NotABackup, "is not the manifest"),
        (lambda it: (it / FILE).write_text("{"), NotABackup, "is not the manifest"),
        (rewrite(lambda said: said.update(format=2)), NotABackup, "of a format"),
        (rewrite(lambda said: said.pop("kind")), NotABackup, "is not the manifest"),
        (rewrite(lambda said: said.update(kind="postgres")), NotABackup, "has books of postgres"),
        (
            rewrite(lambda said: said.update(files={"../x": {"size_bytes": 1, "sha256": ""}})),
            NotABackup,
            "names a file that is not beside it",
        ),
    ],
)
def test_what_is_no_whole_backup_is_not_restored(
    home: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    error: type[BackupError],
    says: str,
) -> None:
    """It says what is wrong, and leaves nothing behind."""
    working.take(SqliteBooks(home), tmp_path / "backup", VERSION)
    damage(tmp_path / "backup")
    with pytest.raises(error, match=says):
        working.restore(SqliteBooks(tmp_path / "new"), tmp_path / "backup")
    assert not (tmp_path / "new").exists()


def test_nothing_is_restored_over_books(home: Path, tmp_path: Path) -> None:
    """Not over books, nor beside what is left of some, such as the note of their log."""
    working.take(SqliteBooks(home), tmp_path / "backup", VERSION)
    with pytest.raises(NotEmpty):
        working.restore(SqliteBooks(home), tmp_path / "backup")
    left = tmp_path / "new" / "data" / "coordinator.db.mark"
    left.parent.mkdir(parents=True)
    left.touch()
    with pytest.raises(NotEmpty):
        working.restore(SqliteBooks(tmp_path / "new"), tmp_path / "backup")
    assert [left] == list(left.parent.iterdir())


def test_no_backup_takes_the_place_of_another(home: Path, tmp_path: Path) -> None:
    """What is there stays."""
    working.take(SqliteBooks(home), tmp_path / "backup", VERSION)
    with pytest.raises(NotTaken, match="is there already"):
        working.take(SqliteBooks(home), tmp_path / "backup", VERSION)
    verified(tmp_path / "backup")


def test_what_is_left_of_one_that_was_killed_is_told(home: Path, tmp_path: Path) -> None:
    """It may also be one that is being taken: nothing of it is touched."""
    left = tmp_path / f"backup{UNFINISHED}" / "ledger.db"
    left.parent.mkdir()
    left.touch()
    with pytest.raises(NotTaken, match=f"{UNFINISHED} is there"):
        working.take(SqliteBooks(home), tmp_path / "backup", VERSION)
    assert left.exists()


def test_a_backup_that_is_not_finished_leaves_nothing(home: Path, tmp_path: Path) -> None:
    """A store that cannot be read ends it, and what was copied before is removed."""
    (home / "data" / "order.db").write_bytes(b"no database" * 100)
    with pytest.raises(NotTaken, match="file is not a database"):
        working.take(SqliteBooks(home), tmp_path / "backup", VERSION)
    assert [home] == list(tmp_path.iterdir())


def test_without_books_or_a_log_nothing_is_taken(home: Path, tmp_path: Path) -> None:
    """Both are said."""
    with pytest.raises(NothingToBackUp, match="no books in"):
        working.look(SqliteBooks(tmp_path))
    (home / "data" / "coordinator.db").unlink()
    with pytest.raises(NothingToBackUp, match="no decision log"):
        working.look(SqliteBooks(home))


def test_rows_that_cannot_be_read_are_no_agreement(home: Path) -> None:
    """A row of the log whose branches are no JSON ends the comparison."""
    execute(
        home / "data" / "coordinator.db",
        "INSERT INTO decision VALUES ('1-log', 'COMMITTED', 'c', 'k', x'00', '[', '', '', 1, 1, 1)",
    )
    with pytest.raises(NotTaken, match="a row cannot be read"):
        working.look(SqliteBooks(home))


def test_books_larger_than_a_page_are_compared_and_some_of_many_findings_shown(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of a page, each transaction is found once, and counted."""
    monkeypatch.setattr("services.backup.comparing.PAGE_ROWS", 2)
    for at in range(MANY):
        execute(
            home / "data" / "ledger.db",
            "INSERT INTO branch (txn_id, branch_id, state, coordinator, prepared_at_us) VALUES "
            f"('{at:03}-log', 'a', 'COMMITTED', 'c', 1), ('{at:03}-log', 'b', 'PREPARED', 'c', 1)",
        )
    manifest, found = working.take(SqliteBooks(home), tmp_path / "backup", VERSION)
    assert manifest == verified(tmp_path / "backup")
    assert {"UNLOGGED": MANY, "SPLIT": MANY} == manifest.found
    assert (MANY, 2 * MANY) == (found.transactions, found.branches)
    said = public(None, found)
    assert {"UNLOGGED": MANY, "SPLIT": MANY} == said["counts"]
    assert 2 * FINDINGS_SHOWN_MAX == len(said["findings"])
    shown = list(lines(None, found))
    assert f"  CONTRADICTION {MANY} UNLOGGED: the participant has" in "\n".join(shown)
    assert "  start nothing on these books: see docs/operations.md" == shown[-1]
