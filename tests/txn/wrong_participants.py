"""Right resources over one set of tables, and one of each kind of wrong ones."""

# ruff: noqa: D102 - what a method does is said where it is first written
from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from txn.barrier import in_the_way
from txn.errors import Busy, Refused
from txn.model import BranchKey, TxnId
from txn.resource import Item
from txn.state import Vote
from txn.store.migrate import Migration

SCHEMA = {
    "vouchers": (
        Migration(
            1,
            "CREATE TABLE voucher (code TEXT PRIMARY KEY, free INTEGER CHECK (free >= 0));\n"
            "CREATE TABLE hold (txn_id, branch_id, code, PRIMARY KEY (txn_id, branch_id));\n"
            "CREATE TABLE used (code TEXT);\n"
            "CREATE TABLE printed (code REFERENCES voucher DEFERRABLE INITIALLY DEFERRED);",
        ),
    )
}


def stock(tx: sqlite3.Connection) -> None:
    """Some of each voucher, but none of one."""
    tx.executemany("INSERT INTO voucher VALUES (?, ?)", [("A", 3), ("B", 3), ("ONE", 1), ("NO", 0)])


class Vouchers:
    """A right one: prepare takes a voucher and holds it, commit uses it, abort gives it back."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        """See Resource."""
        if not self.free(tx, code):
            raise Refused("NONE_LEFT")
        self.hold(tx, key, code)
        return Vote.COMMIT

    def commit(self, tx: Any, key: BranchKey, code: str) -> Any:
        """See Resource."""
        tx.execute("DELETE FROM hold WHERE txn_id = ? AND branch_id = ?", key)
        tx.execute("INSERT INTO used VALUES (?)", (code,))

    def abort(self, tx: Any, key: BranchKey, code: str) -> Any:
        """See Resource."""
        tx.execute("DELETE FROM hold WHERE txn_id = ? AND branch_id = ?", key)
        tx.execute("UPDATE voucher SET free = free + 1 WHERE code = ?", (code,))

    def free(self, tx: Any, code: str) -> int:
        """How many are left."""
        row = tx.execute("SELECT free FROM voucher WHERE code = ?", (code,)).fetchone()
        return 0 if row is None else int(row[0])

    def hold(self, tx: Any, key: BranchKey, code: str) -> None:
        """Takes one."""
        tx.execute("UPDATE voucher SET free = free - 1 WHERE code = ?", (code,))
        tx.execute("INSERT INTO hold VALUES (?, ?, ?)", (*key, code))


class Batches(Vouchers):
    """The same for many at once."""

    def prepare_all(self, tx: Any, items: Sequence[Item[str]]) -> Any:
        """See BatchResource."""
        votes: list[Vote | Refused | Busy] = []
        for key, code in items:
            try:
                votes.append(self.prepare(tx, key, code))
            except (Refused, Busy) as refusal:
                votes.append(refusal)
        return votes

    def commit_all(self, tx: Any, items: Sequence[Item[str]]) -> Any:
        """See BatchResource."""
        for item in items:
            self.commit(tx, *item)

    def abort_all(self, tx: Any, items: Sequence[Item[str]]) -> Any:
        """See BatchResource."""
        for item in items:
            self.abort(tx, *item)


class Queueing(Vouchers):
    """Who finds the hold of an older transaction in the way waits for it."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        """See Resource."""
        held = tx.execute("SELECT max(txn_id) FROM hold WHERE code = ?", (code,)).fetchone()[0]
        if not self.free(tx, code) and held is not None:
            raise in_the_way(key.txn_id, TxnId(held), "NONE_LEFT")
        return super().prepare(tx, key, code)


class NeedsTwoTransactions(Vouchers):
    """Counts on something having been written between prepare and commit."""

    def __init__(self) -> None:
        self._after = -1

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        vote = super().prepare(tx, key, code)
        self._after = tx.total_changes
        return vote

    def commit(self, tx: Any, key: BranchKey, code: str) -> None:
        if tx.total_changes == self._after:
            raise LookupError(key)
        super().commit(tx, key, code)


class NeverGivesBack(Vouchers):
    """Drops the hold, and what was held with it."""

    def abort(self, tx: Any, key: BranchKey, code: str) -> None:
        tx.execute("DELETE FROM hold WHERE txn_id = ? AND branch_id = ?", key)


class GivesBackTooMuch(Vouchers):
    """Takes everybody's holds for its own."""

    def abort(self, tx: Any, key: BranchKey, code: str) -> None:
        held = tx.execute("DELETE FROM hold RETURNING code").fetchall()
        tx.executemany("UPDATE voucher SET free = free + 1 WHERE code = ?", held)


class Remembers(Vouchers):
    """Knows only in memory what it has prepared."""

    def __init__(self) -> None:
        self._mine: set[BranchKey] = set()

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        vote = super().prepare(tx, key, code)
        self._mine.add(key)
        return vote

    def commit(self, tx: Any, key: BranchKey, code: str) -> None:
        if key not in self._mine:
            raise LookupError(key)
        super().commit(tx, key, code)


class Counts(Vouchers):
    """Keeps what is left in memory, beside the tables."""

    def __init__(self) -> None:
        self._left = {"A": 3, "B": 3, "ONE": 1, "NO": 0}

    def free(self, tx: Any, code: str) -> int:
        return self._left[code]

    def hold(self, tx: Any, key: BranchKey, code: str) -> None:
        self._left[code] -= 1
        super().hold(tx, key, code)

    def abort(self, tx: Any, key: BranchKey, code: str) -> None:
        self._left[code] += 1
        super().abort(tx, key, code)


class Caches(Vouchers):
    """Looks up what is left where it does not know it; another replica changes it meanwhile."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    def free(self, tx: Any, code: str) -> int:
        if code not in self._left:
            self._left[code] = super().free(tx, code)
        return self._left[code]

    def hold(self, tx: Any, key: BranchKey, code: str) -> None:
        tx.execute("UPDATE voucher SET free = max(0, free - 1) WHERE code = ?", (code,))
        tx.execute("INSERT INTO hold VALUES (?, ?, ?)", (*key, code))
        self._left.pop(code)

    def abort(self, tx: Any, key: BranchKey, code: str) -> None:
        super().abort(tx, key, code)
        self._left[code] = super().free(tx, code)


class ForgetsOnceAborted(Remembers):
    """Cannot abort again what was aborted and then rolled back."""

    def abort(self, tx: Any, key: BranchKey, code: str) -> None:
        if key in self._mine:
            self._mine.remove(key)
            super().abort(tx, key, code)


class OnOperation(Vouchers):
    """Leaves itself a note on the operation, which is read anew for commit."""

    def prepare(self, tx: Any, key: BranchKey, code: Any) -> Any:
        code.append("noted")
        return super().prepare(tx, key, code[0])

    def commit(self, tx: Any, key: BranchKey, code: Any) -> None:
        super().commit(tx, key, code[code.index("noted") - 1])

    def abort(self, tx: Any, key: BranchKey, code: Any) -> None:
        super().abort(tx, key, code[0])


class Elsewhere(Vouchers):
    """Writes what it has used to a database of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _run(self, statement: str, values: Sequence[str] = ()) -> list[Any]:
        own = sqlite3.connect(self._path)
        with own:
            own.execute("CREATE TABLE IF NOT EXISTS mine (code TEXT)")
            rows = own.execute(statement, values).fetchall()
        own.close()
        return rows

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        if self._run("SELECT * FROM mine WHERE code = ?", (code,)) or not self.free(tx, code):
            raise Refused("NONE_LEFT")
        self._run("INSERT INTO mine VALUES (?)", (code,))
        return Vote.COMMIT

    def commit(self, tx: Any, key: BranchKey, code: str) -> None:
        self._run("DELETE FROM mine WHERE code = ?", (code,))

    def abort(self, tx: Any, key: BranchKey, code: str) -> None:
        self._run("DELETE FROM mine WHERE code = ?", (code,))


class OwnConnection(Vouchers):
    """Opens the participant's own file a second time."""

    def hold(self, tx: Any, key: BranchKey, code: str) -> None:
        path = tx.execute("PRAGMA database_list").fetchone()[2]
        own = sqlite3.connect(path, timeout=0)
        try:
            with own:
                super().hold(own, key, code)
        finally:
            own.close()


class ReadsOwnConnection(Batches):
    """Looks at what is left past the transaction, and so past what is held in it."""

    def free(self, tx: Any, code: str) -> int:
        own = sqlite3.connect(tx.execute("PRAGMA database_list").fetchone()[2])
        try:
            return super().free(own, code)
        finally:
            own.close()

    def hold(self, tx: Any, key: BranchKey, code: str) -> None:
        tx.execute("UPDATE voucher SET free = max(0, free - 1) WHERE code = ?", (code,))
        tx.execute("INSERT INTO hold VALUES (?, ?, ?)", (*key, code))


class ChecksAtCommit(Vouchers):
    """Promises everything, and finds out at commit."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        tx.execute("INSERT INTO hold VALUES (?, ?, ?)", (*key, code))
        return Vote.COMMIT

    def commit(self, tx: Any, key: BranchKey, code: str) -> None:
        tx.execute("UPDATE voucher SET free = free - 1 WHERE code = ?", (code,))
        super().commit(tx, key, code)

    def abort(self, tx: Any, key: BranchKey, code: str) -> None:
        tx.execute("DELETE FROM hold WHERE txn_id = ? AND branch_id = ?", key)


class ChecksAndHoldsNothing(ChecksAtCommit):
    """Looks whether there is one left, and takes it only at commit."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        if not self.free(tx, code):
            raise Refused("NONE_LEFT")
        return super().prepare(tx, key, code)


class FailsAtCommit(Vouchers):
    """Depends at commit on something that prepare has not looked at."""

    def commit(self, tx: Any, key: BranchKey, code: str) -> None:
        raise ValueError("the printer is out of paper")


class OwesAtCommit(Vouchers):
    """Leaves a constraint to the COMMIT of the local transaction, which fails there."""

    def commit(self, tx: Any, key: BranchKey, code: str) -> None:
        super().commit(tx, key, code)
        tx.execute("INSERT INTO printed VALUES ('nobody printed it')")


class OwesAtPrepare(Vouchers):
    """The same from the beginning."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        tx.execute("INSERT INTO printed VALUES ('nobody printed it')")
        return super().prepare(tx, key, code)


class GivesUp(Vouchers):
    """Raises at commit what is not an Exception, and no participant's to catch."""

    def commit(self, tx: Any, key: BranchKey, code: str) -> None:
        raise SystemExit("the printer is out of paper")


class ClosesIt(Vouchers):
    """Ends the connection, which is not its own."""

    def commit(self, tx: Any, key: BranchKey, code: str) -> None:
        super().commit(tx, key, code)
        tx.close()


class FailsAtAbort(Vouchers):
    """Cannot undo what it has reserved."""

    def abort(self, tx: Any, key: BranchKey, code: str) -> None:
        raise ValueError("vouchers are not taken back")


class DoesNothing(Vouchers):
    """Checks, and forgets to do it."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        if not self.free(tx, code):
            raise Refused("NONE_LEFT")
        return Vote.COMMIT

    def commit(self, tx: Any, key: BranchKey, code: str) -> None:
        pass

    def abort(self, tx: Any, key: BranchKey, code: str) -> None:
        pass


class ForgetsToVote(Vouchers):
    """Returns nothing."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> None:
        super().prepare(tx, key, code)


class RaisesSomething(Vouchers):
    """Says no in words of its own."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        if not self.free(tx, code):
            raise ValueError("none left")
        return super().prepare(tx, key, code)


class AlwaysBusy(Vouchers):
    """Lets wait who will never get one."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        if not self.free(tx, code):
            raise Busy("NONE_LEFT")
        return super().prepare(tx, key, code)


class RefusesAll(Vouchers):
    """Does what nobody can use."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        raise Refused("CLOSED")


class ExplainsAtLength(Vouchers):
    """Gives a reason for people only."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        if not self.free(tx, code):
            raise Refused("there are none left")
        return super().prepare(tx, key, code)


class WritesAndVotesReadOnly(Vouchers):
    """Has something to commit and says that it has not."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        super().prepare(tx, key, code)
        return Vote.READ_ONLY


class CommitsItself(Vouchers):
    """Ends the local transaction, which is not its own."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        vote = super().prepare(tx, key, code)
        tx.commit()
        return vote


class Awaits(Vouchers):
    """Is a coroutine, which nobody awaits."""

    async def commit(self, tx: Any, key: BranchKey, code: str) -> None:
        super().commit(tx, key, code)


class KeyedByTransaction(Vouchers):
    """Takes its reservation for that of the whole transaction."""

    def abort(self, tx: Any, key: BranchKey, code: str) -> None:
        held = tx.execute("DELETE FROM hold WHERE txn_id = ? RETURNING code", key[:1]).fetchall()
        tx.executemany("UPDATE voucher SET free = free + 1 WHERE code = ?", held)


class MixesUpVotes(Batches):
    """Votes in another order."""

    def prepare_all(self, tx: Any, items: Sequence[Item[str]]) -> Any:
        return super().prepare_all(tx, items)[::-1]


class LeavesOutRefusals(Batches):
    """Votes for some only."""

    def prepare_all(self, tx: Any, items: Sequence[Item[str]]) -> Any:
        votes = super().prepare_all(tx, items)
        return [vote for vote in votes if vote is Vote.COMMIT] or votes


class ForgetsTheBatch(Batches):
    """Commits the first of a batch only."""

    def commit_all(self, tx: Any, items: Sequence[Item[str]]) -> None:
        super().commit_all(tx, items[:1])


class ExplainsBatchesAtLength(Batches, ExplainsAtLength):
    """Gives reasons for people only, in a batch."""


class ForgetsToVoteInBatches(Batches, ForgetsToVote):
    """Returns nothing for an item."""


class CannotDoTwo(Batches):
    """Works alone, and for one at a time."""

    def prepare_all(self, tx: Any, items: Sequence[Item[str]]) -> Any:
        ((key, code),) = items
        return super().prepare_all(tx, [Item(key, code)])


class WritesAndRefuses(Batches):
    """Has written the hold when it finds that there was none left."""

    def prepare(self, tx: Any, key: BranchKey, code: str) -> Any:
        tx.execute("INSERT INTO hold VALUES (?, ?, ?)", (*key, code))
        if not self.free(tx, code):
            raise Refused("NONE_LEFT")
        tx.execute("UPDATE voucher SET free = free - 1 WHERE code = ?", (code,))
        return Vote.COMMIT
