"""A server that is stopped at once, as after a power cut, while branches are prepared on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresServer, running
from tests.support.waiting import eventually
from tests.txn.helpers import key
from tests.txn.store.prepared_rig import PreparedRig, open_prepared
from tests.txn.store.test_prepared import YES, take
from txn.errors import StoreError
from txn.model import Abort, Commit, Message
from txn.state import BranchState

RETURN_S = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that is stopped."""
    with running() as server:
        yield server


async def again(rig: PreparedRig, message: Message) -> object:
    """What a message is answered once the server is back; it is repeated, as coordinators do."""
    said: list[object] = []

    async def answered() -> bool:
        said[:] = await rig.said(message)
        return not (isinstance(said[0], type) and issubclass(said[0], StoreError))

    await eventually(answered, RETURN_S)
    return said[0]


@pytest.mark.timeout(240)
async def test_what_is_prepared_survives_a_stop_of_the_server(server: PostgresServer) -> None:
    """The same process commits the one and aborts the other, and repeats the third."""
    async with open_prepared(server) as rig:
        assert [YES] * 3 == await rig.said(
            take("t1", "ann"), take("t2", "bob"), take("t3", "SELECT 1")
        )
        server.stop()
        with pytest.raises(StoreError):
            await rig.participant.commit(key("t1"))
        server.start()
        assert 3 == len(rig.gids())
        assert YES == await again(rig, take("t3", "SELECT 1"))
        assert None is await again(rig, Commit(key("t1")))
        assert None is await again(rig, Abort(key("t2")))
        assert {"ann": 1, "bob": 0} == rig.amounts()
        rows = await rig.participant.list_branches(after=None, limit=9, state=BranchState.PREPARED)
        assert [key("t3")] == [row.key for row in rows]
        assert None is await again(rig, Abort(key("t3")))


@pytest.mark.timeout(240)
async def test_no_answer_is_wrong_when_the_server_stops_in_the_middle(
    server: PostgresServer,
) -> None:
    """Whatever was voted is prepared, what was not may be, and each takes effect once."""
    async with open_prepared(server) as rig:
        voted: list[str] = []
        failed = asyncio.Event()

        async def prepare_all(worker: int) -> None:
            for number in range(200):
                name = f"t{worker}-{number:03}"
                if [YES] != await rig.said(take(name, f"INSERT INTO pair VALUES ('{name}')")):
                    failed.set()
                    return
                voted.append(name)

        working = asyncio.gather(*map(prepare_all, range(3)))
        await eventually(lambda: len(voted) >= 20, RETURN_S)
        await asyncio.to_thread(server.stop)
        await working
        assert failed.is_set()
        await asyncio.to_thread(server.start)
        held = {gid.split("/")[2] for gid in rig.gids()}
        assert set(voted) <= held
        for name in sorted(held):
            assert None is await again(rig, Commit(key(name)))
        assert [(name,) for name in sorted(held)] == rig.query("SELECT name FROM pair ORDER BY 1")
