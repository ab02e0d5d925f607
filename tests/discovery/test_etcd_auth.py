import asyncio

import grpc
import pytest

from discovery.etcd_auth import TokenKeeper
from discovery.etcd_types import UnauthenticatedError, UnavailableError
from discovery.sync_transport import SyncTransport
from discovery.transport import Transport


class _Signer:
    """Signs in by script, and counts."""

    def __init__(self, *answers: str | Exception) -> None:
        self.asked = 0
        self.now = 100.0
        self._answers = list(answers)

    async def __call__(self, transport: Transport) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def keeper(self) -> TokenKeeper:
        return TokenKeeper(self, 10.0, lambda: self.now)


@pytest.fixture
def transport() -> Transport:
    """Never used: the signer knows the answers."""
    return SyncTransport(grpc.insecure_channel("127.0.0.1:1"))


async def test_all_who_wait_share_one_sign_in(transport: Transport) -> None:
    """A token costs etcd a password hash, so it is asked for once."""
    signer = _Signer("t1")
    keeper = signer.keeper()

    tokens = await asyncio.gather(*(keeper.token(transport) for _ in range(9)))

    assert (["t1"] * 9, 1) == (tokens, signer.asked)


async def test_a_token_is_renewed_when_it_is_refused_and_not_before(transport: Transport) -> None:
    """Who finds out late that an old token had ended costs nobody the new one."""
    signer = _Signer("t1", "t2")
    keeper = signer.keeper()
    assert await keeper.token(transport) == "t1"

    keeper.forget("t1")
    assert await keeper.token(transport) == "t2"
    keeper.forget("t1")

    assert await keeper.token(transport) == "t2"
    assert signer.asked == 2


async def test_refused_credentials_rest(transport: Transport) -> None:
    """They are not shown again for a while, and each caller is told by an error of its own."""
    signer = _Signer(UnauthenticatedError("no"), "t1")
    keeper = signer.keeper()

    errors = []
    for _ in range(3):
        with pytest.raises(UnauthenticatedError) as caught:
            await keeper.token(transport)
        errors.append(caught.value)
    assert (3, 1) == (len(set(map(id, errors))), signer.asked)

    signer.now += 10.0
    assert await keeper.token(transport) == "t1"


async def test_a_registry_that_is_away_is_asked_again_at_once(transport: Transport) -> None:
    """Only refusals rest."""
    signer = _Signer(UnavailableError("away"), "t1")
    keeper = signer.keeper()

    with pytest.raises(UnavailableError):
        await keeper.token(transport)

    assert await keeper.token(transport) == "t1"


async def test_one_who_stops_waiting_does_not_end_it_for_the_others(transport: Transport) -> None:
    """A cancelled caller leaves the sign-in to those who still wait."""
    keeper = _Signer("t1").keeper()
    leaving = asyncio.ensure_future(keeper.token(transport))
    staying = asyncio.ensure_future(keeper.token(transport))
    await asyncio.sleep(0)

    leaving.cancel()

    assert await staying == "t1"
