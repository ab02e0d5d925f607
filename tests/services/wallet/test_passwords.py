"""Payment passwords, and who is told what about them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from argon2.exceptions import VerificationError
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.wallet.v1 import wallet_service_pb2 as pb
from tallystick.wallet.v1 import wallet_service_pb2_grpc

from services.edge import Edge
from services.errors import Overloaded
from services.runtime import CannotStart
from services.wallet import passwords as module
from services.wallet import users
from services.wallet.passwords import (
    MEMORY_COST,
    MEMORY_COST_MIN_KIB,
    Passwords,
    memory_cost_kib,
)
from services.wallet.service import WalletServicer
from tests.services.rig import open_store
from tests.support.postgres import PostgresServer
from tests.txn.helpers import DEADLINE_S, FastClock
from tests.txn.rpc.rig import Answers, details, failed, served
from txn.store import group_commit
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


@pytest.mark.parametrize(("text", "kib"), [("", 65_536), ("19456", 19_456), ("131072", 131_072)])
def test_how_hard_a_password_is_to_guess_may_be_said(text: str, kib: int) -> None:
    """Within bounds; nobody has to say it."""
    assert kib == memory_cost_kib({MEMORY_COST: text})
    assert 65_536 == memory_cost_kib({})


@pytest.mark.parametrize("text", ["19455", "0", "-1", "131073", "64 MiB", "6_5536", "٦٥٥٣٦"])
def test_a_cost_out_of_bounds_is_refused_by_name(text: str) -> None:
    """Neither are passwords guessed in no time, nor does everybody wait until nobody listens."""
    with pytest.raises(CannotStart, match=f"{MEMORY_COST} is not a number from 19456 to 131072"):
        memory_cost_kib({MEMORY_COST: text})


@pytest.fixture
def cheap() -> Iterator[Passwords]:
    """Those of a wallet that was told to spend less."""
    passwords = Passwords(MEMORY_COST_MIN_KIB)
    yield passwords
    passwords.close()


async def test_passwords_of_another_cost_are_known_still(
    passwords: Passwords, cheap: Passwords
) -> None:
    """Each hash says what its own check takes, and new ones take what is set."""
    usual = await passwords.hash("correct horse")
    less = await cheap.hash("correct horse")
    assert ["m=65536,t=3,p=1", "m=19456,t=3,p=1"] == [each.split("$")[3] for each in (usual, less)]
    for asked, kept in ((passwords, less), (cheap, usual)):
        assert await asked.matches(kept, "correct horse")
        assert not await asked.matches(kept, "battery staple")
    assert passwords.outdated(less)
    assert not passwords.outdated(usual)
    # Wallets that are told different things would take turns.
    assert not cheap.outdated(usual)
    assert cheap.outdated(less.replace("t=3", "t=2"))
    assert not cheap.outdated(usual.replace("t=3", "t=2"))


@pytest.mark.parametrize("kept", ["$argon2id$v=19$m=1,t=3,p=1$", "$argon2id$v=19$m=65536,t=0,p=1$"])
async def test_a_damaged_hash_is_no_wrong_password(passwords: Passwords, kept: str) -> None:
    """Nor is anybody overloaded: its caller would try again for ever."""
    good = await passwords.hash("correct horse")
    with pytest.raises(VerificationError):
        await passwords.matches(kept + "$".join(good.split("$")[4:]), "correct horse")


_WITHOUT_MEMORY = """
import asyncio, resource
from services.errors import Overloaded
from services.runtime import CannotStart
from services.wallet.passwords import Passwords

async def main():
    passwords = Passwords(19_456)
    dear = Passwords(131_072)
    kept = await dear.hash("correct horse")
    (size, *_) = open("/proc/self/statm").read().split()
    limit = int(size) * resource.getpagesize() + 65_536 * 1_024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(await passwords.matches(await passwords.hash("x"), "x"))
    for asked in (dear.matches(kept, "correct horse"), dear.hash("x")):
        try:
            print(await asked)
        except Overloaded as error:
            print(error.reason)
    try:
        Passwords(131_072)
    except CannotStart as error:
        print(error)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="how much memory there is is set as on Linux")
def test_a_password_that_could_not_be_checked_is_not_called_wrong() -> None:
    """Where there is no memory for it its caller may try again, and no wallet starts."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_MEMORY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    assert [
        "True",
        "PASSWORD_CHECKS",
        "PASSWORD_CHECKS",
        "there are no 131072 KiB for a password's hash",
    ] == done.stdout.splitlines()


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

    async def create_with(self, passwords: Passwords) -> str:
        """A user whose password was kept by others than those of this wallet; the hash."""
        await self.create()
        kept = await passwords.hash("correct horse")
        query = 'UPDATE "user" SET password_hash = ?'
        await self.store.write(lambda tx: tx.execute(query, (kept,)))
        return kept

    async def user(self) -> users.User:
        """As it is kept."""
        user = await self.store.read(lambda tx: users.find(tx, "ann"))
        assert user is not None
        return user

    async def confirm(self, user_id: str, password: str) -> pb.ConfirmPaymentResponse:
        """A payment."""
        request = pb.ConfirmPaymentRequest(
            idempotency_key="p", user_id=user_id, trade_no="n1", payment_password=password
        )
        return await self.stub.ConfirmPayment(request)

    async def pay(self, user_id: str, password: str) -> grpc.aio.AioRpcError:
        """How a payment fails."""
        return await failed(self.confirm(user_id, password))


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
    user = await rig.user()
    assert user.password_hash.startswith("$argon2id$")
    assert user.password_hash not in repr(user)


async def test_a_hash_of_another_cost_is_renewed_when_its_password_is_right(
    rig: Rig, cheap: Passwords
) -> None:
    """So a cost that is raised reaches those who are there already; a guess changes nothing."""
    kept = await rig.create_with(cheap)
    await rig.pay("ann", "wrong horse")
    assert kept == (await rig.user()).password_hash
    await rig.confirm("ann", "correct horse")
    renewed = (await rig.user()).password_hash
    assert "m=65536,t=3,p=1" == renewed.split("$")[3]
    await rig.confirm("ann", "correct horse")
    assert renewed == (await rig.user()).password_hash


async def test_a_hash_is_not_renewed_while_others_wait(
    rig: Rig, passwords: Passwords, cheap: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come first, and there will be other payments."""
    kept = await rig.create_with(cheap)
    monkeypatch.setattr(passwords, "_waiting", 1)
    await rig.confirm("ann", "correct horse")
    assert kept == (await rig.user()).password_hash


async def test_a_hash_that_cannot_be_renewed_fails_no_payment(
    rig: Rig, cheap: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There will be others: the queue of the store is full."""
    kept = await rig.create_with(cheap)
    monkeypatch.setattr(group_commit, "QUEUE_SIZE_MAX", 0)
    await rig.confirm("ann", "correct horse")
    assert kept == (await rig.user()).password_hash


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
