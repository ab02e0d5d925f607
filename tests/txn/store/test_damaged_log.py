"""Fault row 29: a decision log that was cut or changed is refused, or believed where it is whole.

A small log, with commits that have no end, is damaged in a copy, each time in another place.
Then either nothing can be opened, or everything that it says is what it said before.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.txn.helpers import CALLER, commit_row
from tests.txn.support import open_sqlite
from txn.errors import LogDamaged, TxnError
from txn.model import Decision, TxnId
from txn.state import Outcome, Vote
from txn.store import log_mark, opening, sqlite_verify
from txn.store.log_mark import LogMark, Noted, all_noted
from txn.store.migrate import apply
from txn.store.sql_log import COLUMNS, SqlDecisionLog, decoded, schema
from txn.store.sqlite_verify import verify

LOG_ID = "-0123456789abcdef"
ROWS = 60
UNFINISHED = 6
DAMAGES = 100
REASON = "INSUFFICIENT_FUNDS"
FORMAT_BYTES = 100  # SQLite's header of a file

Damage = Callable[[Path, random.Random], None]


def txn_id(number: int) -> TxnId:
    """Ids that ascend, of one log."""
    return TxnId(f"{number:032x}{LOG_ID}")


def decision(number: int) -> Decision:
    """Commits and refusals; the newest have no end."""
    row = commit_row(
        txn_id(number),
        ("order", Vote.COMMIT),
        ("ledger", Vote.COMMIT),
        idempotency_key=f"key-{number * 7919 % 1009}",
    )
    if number % 5 == 0:
        return replace(row, outcome=Outcome.ABORTED, reason=REASON, ended=True)
    return replace(row, ended=number < ROWS - UNFINISHED)


async def write_log(path: Path, *, checkpoint: bool) -> None:
    """A log of ROWS rows, in its file, or with its second half in SQLite's log of frames."""
    path.parent.mkdir()
    mark = LogMark(path)
    async with open_sqlite(path) as store:
        log = SqlDecisionLog(store, mark=mark)
        assert LOG_ID == await log.identity(LOG_ID)
        for number in range(ROWS):
            if number == ROWS // 2:
                with closing(sqlite3.connect(path)) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            await log.decide_all([decision(number)])
        if not checkpoint:
            shutil.copytree(path.parent, path.parent.with_name("left"))
    mark.close()
    if not checkpoint:
        # As a process that is killed leaves it behind: closing takes the frames in.
        shutil.rmtree(path.parent)
        path.parent.with_name("left").rename(path.parent)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqlDecisionLog]:
    """The log, as a coordinator opens it. Raises LogDamaged, or what SQLite does."""
    mark = LogMark(path)
    try:
        verify(path)
        store = opening.open_store(path, schema())
        try:
            yield SqlDecisionLog(store, mark=mark)
        finally:
            await store.close()
    finally:
        mark.close()


async def contradictions(path: Path) -> list[str] | None:
    """What the log at `path` answers otherwise than when it was written; None if it is refused."""
    try:
        async with opened(path) as log:
            return [
                *await _missing_from_recovery(log),
                *[wrong for number in range(ROWS) if (wrong := await _wrong(log, number))],
            ]
    except (LogDamaged, sqlite3.Error):
        return None


async def _missing_from_recovery(log: SqlDecisionLog) -> list[str]:
    found = await log.list_decisions(after="", limit=ROWS, unfinished_only=True)
    wanted = {decision(n).txn_id for n in range(ROWS) if not decision(n).ended}
    return [f"not recovered: {each}" for each in wanted - {row.txn_id for row in found}]


async def _wrong(log: SqlDecisionLog, number: int) -> str:
    """What an inquiry, and then a request under the same key, would be told wrongly."""
    row = decision(number)
    inquiry = Decision(row.txn_id, Outcome.ABORTED, None, (), decided_at_us=9, ended=True)
    # Of what has an end nobody inquires; a row that stands is not written again.
    if not row.ended:
        (stands,) = await log.decide_all([inquiry])
        if isinstance(stands, Decision) and stands.outcome is not row.outcome:
            return f"{number} is {stands.outcome} to an inquiry"
    assert row.request is not None
    name = (CALLER, row.request.idempotency_key)
    try:
        found = (await log.by_keys([name])).get(name)
    except (TxnError, sqlite3.Error):
        return ""
    if found is None or replace(found, ended=row.ended) != row:
        return f"{number} is {found} under its key"
    return ""


def flip_a_bit(path: Path, rng: random.Random) -> None:
    """One bit, anywhere."""
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content) * 8)
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)


def flip_a_bit_of_a_row(path: Path, rng: random.Random) -> None:
    """One bit of what a row says, wherever it is written."""
    content = bytearray(path.read_bytes())
    row = decision(rng.randrange(ROWS))
    assert row.request is not None
    words = (row.txn_id, row.request.idempotency_key, row.outcome.value, "VOTE_COMMIT", "ledger")
    word = rng.choice(words).encode()
    places = [found.start() for found in re.finditer(re.escape(word), content)]
    if places:
        at = rng.choice(places) + rng.randrange(len(word))
        content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    """The file ends earlier."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


@pytest.mark.parametrize("damage", [flip_a_bit, flip_a_bit_of_a_row, cut], ids=lambda d: d.__name__)
@pytest.mark.parametrize("where", ["c.db", "c.db-wal"])
async def test_row_29_a_damaged_log_is_refused_or_says_what_it_said(
    tmp_path: Path, where: str, damage: Damage
) -> None:
    """Wherever a bit flips or the file ends, no commit becomes an abort and no key is forgotten."""
    whole = tmp_path / "whole"
    await write_log(whole / "c.db", checkpoint=where == "c.db")
    assert [] == await contradictions(_copied(whole, tmp_path / "untouched"))
    rng = random.Random(29)
    refused = 0
    for number in range(DAMAGES):
        damaged = _copied(whole, tmp_path / "damaged")
        damage(damaged.with_name(where), rng)
        wrong = await contradictions(damaged)
        assert wrong in (None, []), f"damage {number}: {wrong}"
        refused += wrong is None
    assert refused > 0


def _copied(home: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(home, to)
    return to / "c.db"


async def test_a_log_that_is_gone_is_not_a_new_one(tmp_path: Path) -> None:
    """What is beside it says that there were decisions: a new log would call them aborted."""
    whole = tmp_path / "whole" / "c.db"
    await write_log(whole, checkpoint=True)
    whole.unlink()
    assert None is await contradictions(whole)
    assert not whole.exists()


async def test_what_was_truncated_is_not_missed(tmp_path: Path) -> None:
    """A log in which nothing is left, since all of it was old, is no log that lost its end."""
    path = tmp_path / "c.db"
    async with opened(path) as log:
        assert LOG_ID == await log.identity(LOG_ID)
        await log.decide_all([decision(number) for number in (0, 5)])
        assert 2 == (await log.truncate(after="", limit=9, before_us=2)).deleted
    async with opened(path) as log:
        assert [] == list(await log.list_decisions(after="", limit=9))


@pytest.mark.parametrize("loses", ["0", "1", ""])
async def test_each_writer_has_a_note_and_all_of_them_are_looked_at(
    tmp_path: Path, loses: str
) -> None:
    """What one writer has lost is noticed by any, and the note that says so is named alone."""
    path = tmp_path / "c.db"
    async with open_sqlite(path) as store:
        for number, writer in enumerate(["0", "1", ""]):
            with closing(LogMark(path, writer)) as mark:
                assert [decision(number)] == await SqlDecisionLog(store, mark=mark).decide_all(
                    [decision(number)]
                )
        assert LOG_ID == await SqlDecisionLog(store).identity(LOG_ID)
    assert "" == await said_of(path)
    lost = next(each for each in all_noted(path) if each.mark == LogMark(path, loses).path)
    changed(path, "DELETE FROM decision WHERE txn_id = ?", (lost.txn_id,))
    said = await said_of(path)
    assert f"{lost.txn_id} was written and is not there" in said
    assert said.endswith(f"starts without {lost.mark}")


async def test_a_log_that_others_write_to_is_never_accused(tmp_path: Path) -> None:
    """A note that is read before the log is looked at names nothing that comes later."""
    path = tmp_path / "c.db"
    async with open_sqlite(path) as store:
        with closing(LogMark(path, "1")) as mark:
            log = SqlDecisionLog(store, mark=mark)
            assert LOG_ID == await log.identity(LOG_ID)

            async def write() -> None:
                for number in range(ROWS):
                    await log.decide_all([decision(number)])

            writing, looks = asyncio.ensure_future(write()), 0
            while not writing.done():
                await asyncio.to_thread(verify, path)
                looks += 1
            await writing
    assert looks > 1


async def test_a_note_that_cannot_be_read_accuses_nobody(tmp_path: Path) -> None:
    """It is not forced, so a power cut may have left anything in it; the next force mends it."""
    whole = tmp_path / "whole" / "c.db"
    await write_log(whole, checkpoint=True)
    note = whole.with_name("c.db.mark")
    note.write_bytes(note.read_bytes().replace(b"0", b"1"))
    assert [] == await contradictions(whole)
    assert [Noted(decision(ROWS - 1).txn_id, closed=False, mark=note)] == all_noted(whole)


async def test_a_note_of_something_that_is_no_text_accuses_nobody(tmp_path: Path) -> None:
    """Even where its checksum is right."""
    with closing(LogMark(tmp_path / "c.db")) as mark:
        text = b"\xff".ljust(log_mark._SIZE_BYTES - log_mark._CHECKSUM_BYTES, b"\0")
        mark.path.write_bytes(log_mark._checksum(text) + text)
        assert [] == all_noted(tmp_path / "c.db")


@pytest.mark.parametrize(
    "change",
    [
        "body_hash = 'text'",
        "body_hash = 1",
        "branches = '[', checksum = NULL",
        "branches = '[1]', checksum = NULL",
        "branches = x'00', checksum = NULL",
        """branches = '[["a", "b", "MAYBE"]]', checksum = NULL""",
    ],
)
async def test_a_column_of_another_type_is_damage(tmp_path: Path, change: str) -> None:
    """A flipped bit may make a blob a text: that is a damaged log, and no TypeError."""
    path = tmp_path / "c.db"
    async with opened(path) as log:
        assert LOG_ID == await log.identity(LOG_ID)
        await log.decide_all([decision(1)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE decision SET {change}")
        connection.commit()
    with pytest.raises(LogDamaged, match=f"the row of '{txn_id(1)}'"):
        async with opened(path) as log:
            await log.by_txn_id(txn_id(1))


async def test_rows_that_others_read_are_compared_with_their_checksums(tmp_path: Path) -> None:
    """Whoever reads a log behind the coordinator's back believes no row that was changed."""
    path = tmp_path / "log" / "log.db"
    await write_log(path, checkpoint=True)
    row = f"SELECT {COLUMNS} FROM decision WHERE txn_id = '{txn_id(1)}'"
    (read,) = changed(path, row)
    assert decision(1) == decoded(read)
    changed(path, f"UPDATE decision SET reason = 'x' WHERE txn_id = '{txn_id(1)}'")
    (read,) = changed(path, row)
    with pytest.raises(LogDamaged, match="not as it was written"):
        decoded(read)


async def test_what_is_quoted_of_a_damaged_log_is_on_one_line(tmp_path: Path) -> None:
    """SQLite tells of damage in several lines, and with whatever it has found."""
    path = tmp_path / "c.db"
    async with opened(path) as log:
        await log.decide_all([decision(1)])
    content = bytearray(path.read_bytes())
    # Of the header: a file that was never vacuumed step by step says that it was.
    content[64:68] = b"\0\0\0\1"
    path.write_bytes(content)
    with pytest.raises(LogDamaged) as refused:
        verify(path)
    assert str(refused.value).isprintable()


async def test_damage_that_cannot_be_quoted_is_damage(tmp_path: Path) -> None:
    """What SQLite finds and names need not be text; then sqlite3 has an error of another kind."""
    path = tmp_path / "c.db"
    async with opened(path) as log:
        await log.decide_all([decision(1)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET name = CAST(x'80' AS TEXT), sql = 'CREATE nonsense' "
            "WHERE name = 'decision_unfinished'"
        )
        connection.commit()
    with pytest.raises(LogDamaged):
        verify(path)


async def test_a_note_that_cannot_be_written_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The row is durable, and whoever waits for it hears so; the log says what is missing."""
    path = tmp_path / "c.db"
    async with open_sqlite(path) as store:
        with closing(LogMark(path)) as mark:
            full = os.open("/dev/full", os.O_RDWR)
            os.dup2(full, mark._descriptor)
            os.close(full)
            log = SqlDecisionLog(store, mark=mark)
            assert [decision(1)] == await log.decide_all([decision(1)])
    assert f"{path}.mark is not written" in caplog.text


async def said_of(path: Path) -> str:
    """What is wrong with the log at `path`; empty if it is believed."""
    try:
        verify(path)
    except LogDamaged as error:
        return str(error)
    return ""


async def test_an_empty_file_is_a_log_that_was_never_written_or_one_that_is_gone(
    tmp_path: Path,
) -> None:
    """What was killed while it made its file starts again; where a row was noted it does not."""
    path = tmp_path / "c.db"
    sqlite3.connect(path).close()
    assert "" == await said_of(path)
    with closing(LogMark(path)) as mark:
        mark.write(txn_id(1))
    assert "it is empty" in await said_of(path)


async def test_a_log_under_another_name_is_refused(tmp_path: Path) -> None:
    """Its rows would not be found by their ids, which end in the name."""
    path = tmp_path / "whole" / "c.db"
    await write_log(path, checkpoint=True)
    changed(path, "UPDATE log_identity SET log_id = '-another'")
    assert "its name" in await said_of(path)
    changed(path, "DELETE FROM log_identity")
    assert "its name" in await said_of(path)


def changed(path: Path, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """Runs a statement on a connection of its own, which may also change the schema."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        return connection.execute(statement, values).fetchall()


def behind_the_index(path: Path, statement: str) -> None:
    """Changes rows, and leaves the index of unfinished commits as it was before."""
    (index,) = changed(path, "SELECT * FROM sqlite_master WHERE name = 'decision_unfinished'")
    changed(path, "DELETE FROM sqlite_master WHERE name = 'decision_unfinished'")
    changed(path, statement)
    changed(path, "INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", index)


async def test_a_commit_that_is_to_be_recovered_and_has_ended_is_not_believed(
    tmp_path: Path,
) -> None:
    """Where index and row contradict each other one of them was changed: nobody knows which."""
    path = tmp_path / "whole" / "c.db"
    await write_log(path, checkpoint=True)
    newest = decision(ROWS - 1).txn_id
    behind_the_index(path, f"UPDATE decision SET ended = 1 WHERE txn_id = '{newest}'")
    assert f"whether {newest} has ended is not certain" in await said_of(path)


async def test_a_commit_that_is_to_be_recovered_twice_is_not_believed(tmp_path: Path) -> None:
    """The entry was that of another one, which nobody would find to send it again."""
    path = tmp_path / "whole" / "c.db"
    await write_log(path, checkpoint=True)
    ((page,),) = changed(
        path, "SELECT rootpage FROM sqlite_master WHERE name = 'decision_unfinished'"
    )
    ((size,),) = changed(path, "PRAGMA page_size")
    newest, before = (decision(ROWS - number).txn_id.encode() for number in (1, 2))
    content = bytearray(path.read_bytes())
    at = content.index(newest, (page - 1) * size, page * size)
    content[at : at + len(newest)] = before
    path.write_bytes(content)
    assert "named twice" in await said_of(path)


async def test_of_a_large_log_the_rows_are_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too large to be looked through at the start has checksums and its newest row."""
    monkeypatch.setattr(sqlite_verify, "STRUCTURE_MAX_BYTES", 0)
    path = tmp_path / "whole" / "c.db"
    await write_log(path, checkpoint=True)
    assert "" == await said_of(path)
    newest = decision(ROWS - 1).txn_id
    changed(path, f"UPDATE decision SET reason = 'X' WHERE txn_id = '{newest}'")
    assert f"the row of {newest!r}" in await said_of(path)
    changed(path, f"DELETE FROM decision WHERE txn_id = '{newest}'")
    assert f"{newest} was written and is not there" in await said_of(path)


async def test_a_claim_that_was_closed_and_is_open_again_is_damage(tmp_path: Path) -> None:
    """Its caller was told an outcome of which nobody else has a row: there was nothing to do."""
    path = tmp_path / "whole" / "c.db"
    path.parent.mkdir()
    claim = replace(decision(1), outcome=Outcome.PENDING)
    nothing_to_do = [branch._replace(vote=Vote.READ_ONLY) for branch in decision(1).branches]
    async with opened(path) as log:
        await log.identity(LOG_ID)
        await log.decide_all([claim])
        frames = path.with_name("c.db-wal").stat().st_size
        await log.close_all([replace(decision(1), branches=tuple(nothing_to_do))])
        shutil.copytree(path.parent, tmp_path / "cut")
    cut = tmp_path / "cut" / "c.db"
    assert "" == await said_of(cut)
    os.truncate(cut.with_name("c.db-wal"), frames)
    assert "was closed and stands as a claim" in await said_of(cut)


async def test_rows_from_before_checksums_are_believed(tmp_path: Path) -> None:
    """A log of an earlier release is opened, and what is added to it has checksums."""
    path = tmp_path / "c.db"
    with closing(sqlite3.connect(path)) as connection:
        apply(connection, "coordinator", schema()["coordinator"][:1])
        connection.execute(
            "INSERT INTO decision VALUES (?, 'COMMITTED', ?, 'old', x'', '[]', '', '', 1, 0)",
            (txn_id(0), CALLER),
        )
        connection.commit()
    async with opened(path) as log:
        await log.decide_all([decision(1)])
        rows = await log.list_decisions(after="", limit=9)
    assert [txn_id(0), txn_id(1)] == [row.txn_id for row in rows]
    with closing(sqlite3.connect(path)) as connection:
        checksums = [c for (c,) in connection.execute("SELECT checksum FROM decision ORDER BY 1")]
    assert [None] == checksums[:1]
    assert checksums[1] > 0
