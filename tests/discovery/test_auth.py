"""Users, passwords and tokens of a real etcd."""

import asyncio
import logging
from dataclasses import replace

import pytest

from discovery import Endpoint, EtcdClient, EtcdClientConfig, EtcdResolverConfig
from discovery.etcd_types import PermissionDeniedError, UnauthenticatedError
from tests.discovery.conftest import StartEtcd, StartParty
from tests.discovery.helpers import Recorder
from tests.discovery.party import SERVICE, key_of, stays, value_of
from tests.support.etcd import EtcdOptions, EtcdProcess
from tests.support.waiting import eventually

_USER, _PASSWORD = "ledger", "password-of-this-test"
_PREFIX = "tallystick/"
_FOREIGN = "elsewhere/ledger"
_TOKEN_TTL_S = 4
_LIFETIMES = 3.2
_OURS = EtcdClientConfig(username=_USER, password=_PASSWORD, refused_pause_s=1.0)


@pytest.fixture
def etcd(start_etcd: StartEtcd) -> EtcdProcess:
    """An etcd with a user whose tokens are short-lived; authentication is off."""
    etcd = start_etcd(EtcdOptions(token_ttl_s=_TOKEN_TTL_S))
    etcd.add_user(_USER, _PASSWORD, _PREFIX)
    return etcd


@pytest.fixture
def guarded(etcd: EtcdProcess) -> EtcdProcess:
    """The same, with authentication on."""
    etcd.enable_auth()
    return etcd


async def test_a_user_works_within_its_prefix(guarded: EtcdProcess, party: StartParty) -> None:
    """Registering and listening need no more than the user's role."""
    one = party([guarded.endpoint], _OURS)
    await one.register("a:1")
    guarded.put(key_of("b:2"), value_of("b:2"))

    await one.heard.hears("a:1", "b:2")


async def test_a_foreign_prefix_is_denied_by_name(guarded: EtcdProcess, party: StartParty) -> None:
    """It is PermissionDeniedError or a state's error, and no harm to what is allowed."""
    one = party([guarded.endpoint], _OURS)
    with pytest.raises(PermissionDeniedError):
        await one.client.put(f"{_FOREIGN}/a:1".encode(), b"")
    with pytest.raises(PermissionDeniedError):
        await one.client.list_prefix(_FOREIGN.encode())

    foreign = Recorder()
    one.resolver.subscribe(_FOREIGN, foreign)
    await foreign.hears_error()
    await one.register("a:1")

    await one.heard.hears("a:1")
    assert "permission denied" in str(foreign.last.error)


async def test_no_credentials_are_told(guarded: EtcdProcess, party: StartParty) -> None:
    """A client that does not sign in is not known, and its listener hears so."""
    one = party([guarded.endpoint])

    await one.heard.hears_error()
    with pytest.raises(UnauthenticatedError):
        await one.client.get(b"key")


async def test_a_wrong_password_is_told_and_tried_rarely(
    guarded: EtcdProcess, party: StartParty
) -> None:
    """Everybody hears of it, while etcd hashes it once per pause."""
    wrong = replace(_OURS, password="wrong", refused_pause_s=60.0)
    one = party([guarded.endpoint], wrong)
    await one.heard.hears_error()
    before = guarded.calls("Authenticate")
    registering = asyncio.ensure_future(one.register("a:1"))

    for _ in range(20):
        with pytest.raises(UnauthenticatedError):
            await one.client.get(key_of("a:1").encode())
    await asyncio.wait({registering}, timeout=1.0)

    registering.cancel()
    # Reading the count signs nobody in: metrics are open.
    assert before == guarded.calls("Authenticate")


async def test_the_password_shows_nowhere(
    guarded: EtcdProcess, party: StartParty, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither logs nor errors nor reprs hold it, nor the token."""
    caplog.set_level(logging.DEBUG)
    wrong = replace(_OURS, password="secret-but-wrong")
    one = party([guarded.endpoint], wrong)
    await one.heard.hears_error()
    with pytest.raises(UnauthenticatedError) as refusal:
        await one.client.get(b"key")

    shown = [caplog.text, repr(refusal.value), str(one.heard.states), repr(wrong), repr(one.client)]

    assert not [text for text in shown if wrong.password in text]


async def test_a_password_that_becomes_right_is_taken(
    guarded: EtcdProcess, party: StartParty
) -> None:
    """Nobody has to restart when the operator sets the password that we have."""
    one = party([guarded.endpoint], replace(_OURS, password="soon-right"))
    registering = asyncio.ensure_future(one.register("a:1"))
    await one.heard.hears_error()

    guarded.set_password(_USER, "soon-right")

    await one.heard.hears("a:1")
    await registering


async def test_tokens_that_end_are_not_noticed(guarded: EtcdProcess, party: StartParty) -> None:
    """Over three lifetimes of a token, in use or idle, nobody is away and all is heard."""
    busy = party([guarded.endpoint], _OURS)
    idle = party(
        [guarded.endpoint],
        _OURS,
        # Renewed at a third, which etcd 3.6 takes for a use of the token.
        ttl_s=4.0 * _TOKEN_TTL_S,
        check_every_s=60.0,
        resolver_config=EtcdResolverConfig(relist_every_s=_TOKEN_TTL_S * 1.5),
    )
    await busy.register("a:1")
    quiet = await idle.register("b:2")
    for one in (busy, idle):
        await one.heard.hears("a:1", "b:2")
    heard_before = {one: len(one.heard.states) for one in (busy, idle)}
    signed_in_before = guarded.calls("Authenticate")

    await stays(
        lambda: heard_before == {one: len(one.heard.states) for one in (busy, idle)},
        _LIFETIMES * _TOKEN_TTL_S,
    )

    assert signed_in_before < guarded.calls("Authenticate"), "no token ended"
    await quiet.update(Endpoint("b:2", weight=7))
    guarded.put(key_of("c:3"), value_of("c:3"))
    for heard in (busy.heard, idle.heard):
        await heard.hears("a:1", "b:2", "c:3")
        await eventually(lambda heard=heard: heard.endpoint("b:2").weight == 7)  # type: ignore[misc]


async def test_tokens_that_a_restart_forgot_are_renewed(
    guarded: EtcdProcess, party: StartParty
) -> None:
    """Tokens are in etcd's memory only; after kill -9 all of them are strangers."""
    one = party([guarded.endpoint], _OURS)
    await one.register("a:1")
    await one.heard.hears("a:1")

    guarded.restart()
    await one.register("b:2")

    await one.heard.hears("a:1", "b:2")


async def test_authentication_may_be_switched_on(etcd: EtcdProcess, party: StartParty) -> None:
    """Who has credentials goes on; who has none keeps the last known good, and an error."""
    prepared = party([etcd.endpoint], _OURS)
    unprepared = party([etcd.endpoint], resolver_config=EtcdResolverConfig(relist_every_s=1.0))
    await prepared.register("a:1")
    for one in (prepared, unprepared):
        await one.heard.hears("a:1")

    etcd.enable_auth()
    await prepared.register("b:2")
    etcd.put(key_of("c:3"), value_of("c:3"))

    await prepared.heard.hears("a:1", "b:2", "c:3")
    await unprepared.heard.hears_error()
    assert "a:1" in unprepared.heard.addresses


async def test_rights_may_change_under_a_client(guarded: EtcdProcess) -> None:
    """A token from before the change is refused by etcd as old, and replaced unnoticed."""
    client = EtcdClient([guarded.endpoint], config=_OURS)
    await client.put(key_of("a:1").encode(), b"before")

    guarded.add_user("somebody", "else", "x")
    await client.put(key_of("a:1").encode(), b"after")

    assert {key_of("a:1"): b"after"} == guarded.entries(SERVICE)
    await client.close()


async def test_a_registration_that_is_denied_holds_up_no_other(
    guarded: EtcdProcess, party: StartParty
) -> None:
    """What is refused for one key is allowed for the next."""
    one = party([guarded.endpoint], _OURS)
    denied = await one.registrar.register(_FOREIGN, Endpoint("a:1"))

    await one.register("a:1")

    assert not denied.registered.is_set()
    # And the one that is allowed is still looked after.
    guarded.delete(key_of("a:1"))
    await eventually(lambda: key_of("a:1") in guarded.entries(SERVICE))
