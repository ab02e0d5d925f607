"""Participants over new files, for as long as a scenario runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Generic, TypeVar

from txn.model import (
    BranchId,
    BranchKey,
    TxnId,
)
from txn.participant_check.rules import Rule, same
from txn.participant_check.site import Site
from txn.participant_check.subject import Subject
from txn.state import Vote

Op = TypeVar("Op")


class Files(Generic[Op]):
    """New files, each as the first one was after it was set up."""

    def __init__(self, directory: Path, subject: Subject[Op]) -> None:
        self._directory = directory
        self.name = subject.name
        self.subject = subject
        self.sites: list[Site[Op]] = []
        self._count = 0
        self._results: dict[int, tuple[object, bool]] = {}

    async def site(self) -> Site[Op]:
        """A new file, set up."""
        self._count += 1
        path = self._directory / f"{self._count}.db"
        if self._count > 1:
            shutil.copyfile(self._directory / "1.db", path)
        site: Site[Op] = Site(path, self.subject)
        self.sites.append(site)
        await site.start()
        if self._count == 1:
            # The first file is what all others start as.
            await site.set_up()
            await site.close()
            self.sites.clear()
            return await self.site()
        return site

    async def close(self) -> None:
        """Closes what the last scenario has opened."""
        sites, self.sites = self.sites, []
        for site in sites:
            await site.close()

    async def done(self, number: int) -> tuple[object, bool]:
        """The tables after an operation, and whether it was READ_ONLY."""
        if number not in self._results:
            site = await self.site()
            vote = await site.accept(key(), number, Rule.ACCEPTS)
            if vote is not Vote.READ_ONLY:
                await site.commit(key(), number)
            self._results[number] = (await site.state(), vote is Vote.READ_ONLY)
        return self._results[number]

    async def given_back(self, number: int) -> Site[Op]:
        """Where an operation was prepared and aborted."""
        site = await self.site()
        before = await site.state()
        await site.accept(key(), number, Rule.ACCEPTS)
        await site.abort(key(), number)
        seen = f"the tables are after abort of {self.name(number)} not as they were before"
        same(before, await site.state(), Rule.ABORT_GIVES_BACK, seen)
        return site


def key(txn_id: str = "t1", branch_id: str = "a") -> BranchKey:
    """A branch of a transaction; the first of all, unless said otherwise."""
    return BranchKey(TxnId(txn_id), BranchId(branch_id))
