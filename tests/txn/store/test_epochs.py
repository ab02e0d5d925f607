"""Epochs in every store: who begins one, who ends whose, and who has to stop writing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import pytest
import pytest_asyncio

from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually
from tests.txn.helpers import commit_row, decide
from tests.txn.support import open_postgres, open_sqlite
from txn.decision_log import DecisionLog, Standing, Tenure
from txn.errors import Fenced
from txn.model import NO_EPOCH, Epoch, TxnId
from txn.state import Vote
from txn.store import sql_log
from txn.testing import MemoryBackend, MemoryDecisionLog, MemoryStore, check_epochs

OnFailure: TypeAlias = Callable[[BaseException], NoReturn]


class Shared:
    """One log, opened as often as a test has processes; and what has ended each of them."""

    def __init__(self, open_log: Callable[[OnFailure], Any]) -> None:
        self._open = open_log
        self.ended: list[BaseException] = []

    async def open(self) -> DecisionLog:
        """The log as another process has it."""
        log: DecisionLog = await self._open(self._end)
        return log

    def _end(self, error: BaseException) -> NoReturn:
        self.ended.append(error)
        raise asyncio.CancelledError


@pytest_asyncio.fixture(params=["memory", "sqlite", "postgres"])
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shared]:
    """A log that is empty yet, in each kind of store."""
    async with AsyncExitStack() as stack:
        backend = MemoryBackend()
        name = ""
        server: PostgresServer | None = None
        if request.param == "postgres":
            server = request.getfixturevalue("postgres_server")
            name = server.schema()

        async def opened(on_failure: OnFailure) -> DecisionLog:
            if request.param == "memory":
                return MemoryDecisionLog(MemoryStore(backend, on_commit_failure=on_failure))
            context = (
                open_postgres(server, name, on_commit_failure=on_failure)
                if server is not None
                else open_sqlite(tmp_path / "s.db", on_commit_failure=on_failure)
            )
            return sql_log.SqlDecisionLog(await stack.enter_async_context(context))

        yield Shared(opened)


async def test_the_contract(shared: Shared) -> None:
    """Every log keeps the promises of DecisionLog about epochs."""
    await check_epochs(await shared.open(), await shared.open())
    assert [] == shared.ended


async def test_who_starts_again_inherits_from_itself(shared: Shared) -> None:
    """Its predecessor is over at once, with all that this one had inherited."""
    first, again = await shared.open(), await shared.open()
    await first.begin_epoch("a")
    await decide(first, commit_row("t1.1", ("ledger", Vote.COMMIT)))
    assert Tenure(Epoch(2), frozenset({NO_EPOCH, Epoch(1)})) == await again.begin_epoch("a")
    assert [Standing(Epoch(2), "a", None)] == [*(await again.epochs()).standing]


async def test_what_is_over_and_done_is_forgotten(shared: Shared) -> None:
    """An epoch that has left nothing to do leaves no row; its number is never used again."""
    for epoch in (1, 2, 3):
        log = await shared.open()
        tenure = await log.begin_epoch("a")
        assert (epoch, epoch - 1 in tenure.inherited) == (tenure.epoch, True)
    # What is older than the predecessor had nothing left to do.
    assert {0, 2} == tenure.inherited


async def test_what_is_left_to_do_keeps_its_epoch(shared: Shared) -> None:
    """However many start after it, each goes on with that too."""
    log = await shared.open()
    await log.begin_epoch("a")
    await decide(log, commit_row("t1.1", ("ledger", Vote.COMMIT)))
    for _ in range(3):
        tenure = await (await shared.open()).begin_epoch("a")
        assert 1 in tenure.inherited


async def test_what_was_inherited_is_inherited_again(shared: Shared) -> None:
    """Who takes over from who has taken over goes on with the work of both."""
    one, other, third = [await shared.open() for _ in range(3)]
    await one.begin_epoch("a")
    await other.begin_epoch("b")
    await third.begin_epoch("c")
    await decide(one, commit_row("t1.1", ("ledger", Vote.COMMIT)))
    assert {1} == await other.take_over(Epoch(1))
    assert {1, 2} <= await third.take_over(Epoch(2))


async def test_who_has_lost_its_epoch_writes_nothing(shared: Shared) -> None:
    """Neither outcomes nor ends, claims that are closed, or what it announces: its process ends."""
    lost, other = await shared.open(), await shared.open()
    await lost.begin_epoch("a")
    row = commit_row("t1.1", ("ledger", Vote.COMMIT))
    await decide(lost, row)
    await other.begin_epoch("b")
    await other.take_over(Epoch(1))
    writing = asyncio.ensure_future(
        lost.decide_all([commit_row("t2.1", ("ledger", Vote.COMMIT), idempotency_key="k2")])
    )
    await eventually(lambda: shared.ended)
    writing.cancel()
    assert isinstance(shared.ended[0], Fenced)
    assert {row.txn_id: row} == await other.by_txn_ids([row.txn_id, TxnId("t2.1")])


async def test_who_has_lost_an_epoch_that_is_forgotten_writes_nothing(shared: Shared) -> None:
    """That its row is gone, since it had nothing left to do, is no leave to go on."""
    lost, other, third = [await shared.open() for _ in range(3)]
    await lost.begin_epoch("a")
    await other.begin_epoch("b")
    await other.take_over(Epoch(1))
    await third.begin_epoch("c")
    writing = asyncio.ensure_future(lost.announce(TxnId("t1")))
    await eventually(lambda: shared.ended)
    writing.cancel()
    assert isinstance(shared.ended[0], Fenced)


async def test_who_inherits_is_not_stopped_by_that(shared: Shared) -> None:
    """To end another's epoch ends nothing of one's own."""
    one, other = await shared.open(), await shared.open()
    await one.begin_epoch("a")
    await other.begin_epoch("b")
    await other.take_over(Epoch(1))
    row = commit_row("t2.2", ("ledger", Vote.COMMIT))
    assert [row] == [*await other.decide_all([row])]
    assert [] == shared.ended
