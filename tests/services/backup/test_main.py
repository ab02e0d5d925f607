"""The commands, as people type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services import books_place
from services.backup.__main__ import EXIT_CONTRADICTION, EXIT_FAILED, main
from tests.services.backup.changing import execute


def test_a_backup_is_taken_verified_and_restored(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a directory it goes below the home, under the time."""
    assert main(["take", "--home", str(home)]) == 0
    (backup,) = (home / "backups").iterdir()
    assert f"taken: {backup}" in capsys.readouterr().out
    assert main(["verify", str(backup)]) == 0
    assert "as of 20" in capsys.readouterr().out
    assert main(["restore", str(backup), "--home", str(tmp_path / "new")]) == 0
    assert "nothing contradicts itself" in capsys.readouterr().out


def test_a_contradiction_has_a_code_of_its_own(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For people and for programs."""
    execute(
        home / "data" / "ledger.db",
        "INSERT INTO branch (txn_id, branch_id, state, coordinator, prepared_at_us) "
        "VALUES ('1-log', 'b', 'COMMITTED', 'c', 1)",
    )
    assert main(["check", "--home", str(home)]) == EXIT_CONTRADICTION
    assert "    1-log  ledger  b" in capsys.readouterr().out.splitlines()
    assert main(["check", "--home", str(home), "--json"]) == EXIT_CONTRADICTION
    assert {"UNLOGGED": 1} == json.loads(capsys.readouterr().out)["counts"]
    assert main(["reconcile", "--home", str(home)]) == 0
    assert "1 commits written into the log" in capsys.readouterr().out


def test_what_cannot_be_done_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No trace, and a code of its own."""
    assert main(["check", "--home", str(tmp_path)]) == EXIT_FAILED
    assert main(["verify", str(tmp_path)]) == EXIT_FAILED
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("backup: there are no books in")
    assert second.startswith("backup: ")
    assert "is no finished backup" in second


def test_books_that_are_elsewhere_are_not_taken_for_those_that_are_here(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files in the home may be of before its mesh was started on PostgreSQL."""
    books_place.note(home, books_place.POSTGRES)
    for command in (["take", str(home / "b")], ["check"], ["reconcile"]):
        assert main([*command, "--home", str(home)]) == EXIT_FAILED
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(
            f"backup: the books of {home} are on postgres: TALLYSTICK_POSTGRES has to name it"
        )
    books_place.note(home, books_place.SQLITE)
    assert main(["check", "--home", str(home)]) == 0


@pytest.mark.parametrize("note", [b"", b"\xff", b"mysql"])
def test_a_note_that_cannot_be_read_says_nothing_of_the_books(
    home: Path, note: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """It might have said that they are elsewhere."""
    (home / "store").write_bytes(note)
    assert main(["check", "--home", str(home)]) == EXIT_FAILED
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("backup: which books are those of this home?")
