"""Payment passwords, and who is told what about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.wallet.v1 import wallet_service_pb2 as pb
from tallystick.wallet.v1 import wallet_service_pb2_grpc

from services.edge import Edge
from services.errors import Overloaded
from services.runtime import CannotStart
from services.wallet import passwords as module
from services.wallet import users
from services.wallet.passwords import (
    MEMORY,
    MEMORY_MIN_KIB,
    Passwords,
    password_memory_kib,
)
from services.wallet.service import WalletServicer
from tests.services.rig import open_store
from tests.support.postgres import PostgresServer
from tests.txn.helpers import FastClock
from tests.txn.rpc.rig import Answers, details, failed, served
from txn.store.group_commit import Store
from txn.store.sql import Sql

Code = grpc.StatusCode
Stub: TypeAlias = "wallet_service_pb2_grpc.WalletServiceAsyncStub"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """Makes and checks hashes."""
    passwords = Passwords()
    yield passwords
    passwords.close()


async def test_hash_and_check(passwords: Passwords) -> None:
    """Only the password matches, and the hash does not show it."""
    kept = await passwords.hash("correct horse")
    assert "correct" not in kept
    assert kept.startswith("$argon2id$")
    assert kept != await passwords.hash("correct horse")
    assert [True, False, False] == [
        await passwords.matches(kept, guess) for guess in ("correct horse", "Correct horse", "")
    ]


@pytest.mark.parametrize(("text", "kib"), [("", 65_536), ("19456", 19_456), ("2097152", 2_097_152)])
def test_how_hard_a_password_is_to_guess_may_be_said(text: str, kib: int) -> None:
    """Within bounds; nobody has to say it."""
    assert kib == password_memory_kib({MEMORY: text})
    assert 65_536 == password_memory_kib({})


@pytest.mark.parametrize("text", ["19455", "0", "-1", "2097153", "64 MiB", "6_5536", "٦٥٥٣٦"])
def test_a_cost_out_of_bounds_is_refused_by_name(text: str) -> None:
    """A wallet whose passwords are guessed in no time does not start, nor one without memory."""
    with pytest.raises(CannotStart, match=f"{MEMORY} is not a number from 19456 to 2097152"):
        password_memory_kib({MEMORY: text})


async def test_passwords_of_another_cost_are_known_still() -> None:
    """Each hash says what its own check takes, and new ones take what is set."""
    usual, cheap = Passwords(), Passwords(MEMORY_MIN_KIB)
    try:
        kept = {each: await each.hash("correct horse") for each in (usual, cheap)}
        assert ["m=65536,t=3,p=1", "m=19456,t=3,p=1"] == [
            kept[each].split("$")[3] for each in (usual, cheap)
        ]
        for asked, made in ((usual, cheap), (cheap, usual)):
            assert await asked.matches(kept[made], "correct horse")
            assert not await asked.matches(kept[made], "battery staple")
    finally:
        usual.close()
        cheap.close()


@pytest.mark.parametrize("guess", ["x", "there is no such user"])
async def test_nobody_has_a_password(passwords: Passwords, guess: str) -> None:
    """Where there is no user no password matches, the stand-in's own included."""
    assert not await passwords.matches(None, guess)


async def test_too_many_checks_are_refused(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a core: beyond so many nobody waits, and later there is room again."""
    monkeypatch.setattr(module, "CHECKS_WAITING_MAX", 1)
    first = asyncio.ensure_future(passwords.matches(None, "x"))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await passwords.matches(None, "y")
    await first
    assert not await passwords.matches(None, "z")


class Rig:
    """A wallet whose ledger agrees to everything and whose other services are not there."""

    def __init__(self, stub: Stub, store: Store[Sql]) -> None:
        self.stub = stub
        self.store = store

    async def create(self, **changes: str) -> pb.User:
        """A user."""
        fields = {
            "user_id": "ann",
            "payment_password": "correct horse",
            "currency_code": "EUR",
            "idempotency_key": "k",
            **changes,
        }
        return (await self.stub.CreateUser(pb.CreateUserRequest(**fields))).user

    async def pay(self, user_id: str, password: str) -> grpc.aio.AioRpcError:
        """How a payment fails."""
        request = pb.ConfirmPaymentRequest(
            idempotency_key="p", user_id=user_id, trade_no="n1", payment_password=password
        )
        return await failed(self.stub.ConfirmPayment(request))


@pytest_asyncio.fixture
async def rig(
    tmp_path: Path, passwords: Passwords, database: PostgresServer | None
) -> AsyncIterator[Rig]:
    """A wallet service."""
    account = ledger_service_pb2.CreateAccountResponse().SerializeToString()
    async with (
        open_store("wallet", tmp_path, database) as store,
        served(Answers(account).add) as behind,
    ):

        def add(server: grpc.aio.Server) -> None:
            servicer = WalletServicer(
                store, FastClock(), passwords, order=behind, ledger=behind, coordinator=behind
            )
            wallet_service_pb2_grpc.add_WalletServiceServicer_to_server(servicer, server)

        async with served(add, interceptors=[Edge()]) as channel:
            yield Rig(wallet_service_pb2_grpc.WalletServiceStub(channel), store)


async def test_wrong_and_unknown_are_the_same_answer(rig: Rig) -> None:
    """Nobody learns from the answer whether there is such a user."""
    await rig.create()
    wrong = await rig.pay("ann", "wrong horse")
    unknown = await rig.pay("bob", "correct horse")
    assert Code.UNAUTHENTICATED is wrong.code()
    assert "WRONG_CREDENTIALS" == details(wrong)[0]
    assert (wrong.code(), wrong.details(), details(wrong)) == (
        unknown.code(),
        unknown.details(),
        details(unknown),
    )


async def test_a_user_is_created_once(rig: Rig) -> None:
    """The same key returns the user and does not look at the password again."""
    first = await rig.create()
    assert first == await rig.create(payment_password="something else")
    assert ("ann", "user:ann", "EUR") == (first.user_id, first.account_id, first.currency_code)
    for changes in ({"idempotency_key": "k2"}, {"currency_code": "USD"}):
        error = await failed(rig.create(**changes))
        assert (Code.ALREADY_EXISTS, "USER_EXISTS") == (error.code(), details(error)[0])
    assert "WRONG_CREDENTIALS" == details(await rig.pay("ann", "something else"))[0]


async def test_the_password_is_kept_nowhere(rig: Rig) -> None:
    """Only its hash is, and that does not come to a log with its user."""
    await rig.create()
    rows = await rig.store.read(lambda tx: tx.execute("SELECT * FROM user").fetchall())
    assert "correct horse" not in repr(rows)
    user = await rig.store.read(lambda tx: users.find(tx, "ann"))
    assert user is not None
    assert user.password_hash.startswith("$argon2id$")
    assert user.password_hash not in repr(user)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"payment_password": "short"}, "payment_password"),
        ({"payment_password": "ü" * 65}, "payment_password"),
        ({"user_id": "a b"}, "user_id"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"currency_code": "ZZZ"}, "currency_code"),
    ],
)
async def test_malformed_users(rig: Rig, changes: dict[str, str], field: str) -> None:
    """Refused with the field's name; the message does not repeat a secret."""
    error = await failed(rig.create(**changes))
    assert (Code.INVALID_ARGUMENT, {field}) == (error.code(), set(details(error)[1]))
    if field == "payment_password":
        assert changes[field] not in (error.details() or "")
