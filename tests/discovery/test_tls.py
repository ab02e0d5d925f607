"""Encrypted connections to a real etcd: whom the client trusts, and whom it does not."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from discovery import EtcdClient, EtcdClientConfig, EtcdTls
from discovery.etcd_config import config_from
from discovery.etcd_types import UnavailableError
from tests.discovery.conftest import StartEtcd, StartParty
from tests.discovery.party import key_of, value_of
from tests.support.certificates import Authority, KeyPair
from tests.support.etcd import EtcdOptions
from tests.support.waiting import eventually

_TLS_HANDSHAKE = b"\x16\x03"
_SECRET = "password-of-this-test"


def _config(
    ca: Path, *, own: KeyPair | None = None, server_name: str = "", username: str = ""
) -> EtcdClientConfig:
    tls = EtcdTls(
        ca=ca,
        certificate=own.certificate if own else None,
        key=own.key if own else None,
        server_name=server_name,
    )
    password = _SECRET if username else ""
    return EtcdClientConfig(request_timeout_s=2.0, tls=tls, username=username, password=password)


async def _refusal(endpoint: str, config: EtcdClientConfig) -> str:
    """Why the client does not speak to `endpoint`."""
    client = EtcdClient([endpoint], config=config)
    try:
        with pytest.raises(UnavailableError) as refusal:
            await client.get(b"key")
    finally:
        await client.close()
    return str(refusal.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_an_etcd_whose_certificate_names_its_host_is_trusted(
    host: str, authority: Authority, start_etcd: StartEtcd, party: StartParty
) -> None:
    """By name and by address, and again after it was killed and started."""
    etcd = start_etcd(EtcdOptions(tls=authority.server(host)))
    port = etcd.endpoint.rpartition(":")[2]
    one = party([f"https://{host}:{port}"], _config(authority.certificate))
    await one.register("a:1")
    await one.heard.hears("a:1")

    etcd.restart()
    etcd.put(key_of("b:2"), value_of("b:2"))

    await one.heard.hears("a:1", "b:2")


@pytest.mark.parametrize(
    ("named", "host"),
    [("localhost", "127.0.0.1"), ("127.0.0.1", "localhost"), ("etcd.example", "localhost")],
)
async def test_a_host_that_the_certificate_does_not_name_is_refused(
    named: str, host: str, authority: Authority, start_etcd: StartEtcd
) -> None:
    """A certificate of the right authority for somebody else is not enough."""
    etcd = start_etcd(EtcdOptions(tls=authority.server(named)))
    port = etcd.endpoint.rpartition(":")[2]

    assert "ostname" in await _refusal(f"https://{host}:{port}", _config(authority.certificate))


async def test_the_name_to_verify_can_be_given(
    authority: Authority, start_etcd: StartEtcd, party: StartParty
) -> None:
    """`server_name` is verified in place of the host, and refused when it is not there."""
    etcd = start_etcd(EtcdOptions(tls=authority.server("etcd.example")))
    named = _config(authority.certificate, server_name="etcd.example")
    misnamed = _config(authority.certificate, server_name="etcd2.example")

    one = party([etcd.endpoint], named)
    await one.register("a:1")
    await one.heard.hears("a:1")

    assert "ostname" in await _refusal(etcd.endpoint, misnamed)


async def test_a_foreign_authority_is_refused_and_the_right_one_found_later(
    tmp_path: Path, authority: Authority, start_etcd: StartEtcd, party: StartParty
) -> None:
    """The client says why, and goes on by itself once the file holds the right authority."""
    etcd = start_etcd(EtcdOptions(tls=authority.server("localhost")))
    trusted = tmp_path / "trusted.pem"
    shutil.copy(Authority(tmp_path, "foreign").certificate, trusted)
    one = party([f"https://{etcd.named_endpoint}"], _config(trusted))
    etcd.put(key_of("a:1"), value_of("a:1"))

    await one.heard.hears_error()
    assert "CERTIFICATE_VERIFY_FAILED" in str(one.heard.last.error)
    assert not one.heard.last.resolved

    shutil.copy(authority.certificate, trusted)
    await one.heard.hears("a:1")


async def test_being_refused_costs_no_processor(
    tmp_path: Path, authority: Authority, start_etcd: StartEtcd, party: StartParty
) -> None:
    """A watch and a registration that cannot connect wait rather than spin."""
    etcd = start_etcd(EtcdOptions(tls=authority.server("localhost")))
    foreign = Authority(tmp_path, "foreign").certificate
    one = party([f"https://{etcd.named_endpoint}"], _config(foreign))
    registering = asyncio.ensure_future(one.register("a:1"))
    await one.heard.hears_error()

    before_s = time.process_time()
    await asyncio.wait({registering}, timeout=3.0)
    used_s = time.process_time() - before_s

    registering.cancel()
    assert used_s < 0.3, "a tenth of a core"


async def test_nothing_is_ever_said_in_the_clear(authority: Authority, party: StartParty) -> None:
    """Whoever listens in place of etcd gets handshakes and no byte of ours before them."""
    said: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(await reader.read(65536))
        # What an etcd without TLS would send first: HTTP/2 SETTINGS.
        writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        said[-1] += await reader.read(65536)
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        one = party([f"localhost:{port}"], _config(authority.certificate, username="ledger"))
        registering = asyncio.ensure_future(one.register("a:1"))
        await one.heard.hears_error()
        await eventually(lambda: len(said) > 1)
        registering.cancel()

    assert all(each.startswith(_TLS_HANDSHAKE) for each in said)
    assert not any(_SECRET.encode() in each for each in said)


async def test_an_etcd_without_tls_is_refused(authority: Authority, start_etcd: StartEtcd) -> None:
    """A client that is to encrypt does not fall back."""
    etcd = start_etcd(EtcdOptions())

    await _refusal(etcd.named_endpoint, _config(authority.certificate))

    assert etcd.calls("Range") == 0


async def test_a_client_without_tls_gets_nowhere(
    authority: Authority, start_etcd: StartEtcd
) -> None:
    """An etcd that encrypts is not reached in plain text, and that is told."""
    etcd = start_etcd(EtcdOptions(tls=authority.server("localhost")))

    await _refusal(etcd.named_endpoint, EtcdClientConfig(request_timeout_s=2.0))


async def test_https_alone_trusts_the_well_known_authorities(
    authority: Authority, start_etcd: StartEtcd
) -> None:
    """An endpoint may ask for encryption; our own authority is then a stranger."""
    etcd = start_etcd(EtcdOptions(tls=authority.server("localhost")))
    config = EtcdClientConfig(request_timeout_s=2.0)

    refusal = await _refusal(f"https://{etcd.named_endpoint}", config)

    assert "CERTIFICATE_VERIFY_FAILED" in refusal


async def test_a_client_certificate_is_shown_to_an_etcd_that_asks(
    authority: Authority, start_etcd: StartEtcd, party: StartParty
) -> None:
    """Mutual TLS: with a certificate of the authority everything works."""
    etcd = start_etcd(EtcdOptions(tls=authority.mutual_server("localhost")))
    own = authority.issue("ledger.example")
    one = party([f"https://{etcd.named_endpoint}"], _config(authority.certificate, own=own))

    await one.register("a:1")
    await one.heard.hears("a:1")


@pytest.mark.parametrize("issued_by", ["nobody", "foreign"])
async def test_without_a_certificate_of_its_authority_etcd_refuses(
    issued_by: str, tmp_path: Path, authority: Authority, start_etcd: StartEtcd
) -> None:
    """No client certificate, or one of another authority, gets no answer."""
    etcd = start_etcd(EtcdOptions(tls=authority.mutual_server("localhost")))
    foreign = Authority(tmp_path, "foreign").issue("ledger.example")
    own = foreign if issued_by == "foreign" else None

    await _refusal(f"https://{etcd.named_endpoint}", _config(authority.certificate, own=own))

    assert etcd.calls("Range") == 0


async def test_certificates_that_cannot_be_read_are_told_and_found_later(
    tmp_path: Path, authority: Authority, start_etcd: StartEtcd, party: StartParty
) -> None:
    """A file that is not there yet is an error to whoever listens, and no end."""
    etcd = start_etcd(EtcdOptions(tls=authority.server("localhost")))
    missing = tmp_path / "missing.pem"
    one = party([f"https://{etcd.named_endpoint}"], _config(missing))
    await one.heard.hears_error()
    assert "missing.pem" in str(one.heard.last.error)

    shutil.copy(authority.certificate, missing)
    await one.heard.hears()


def test_the_environment_says_how_to_reach_etcd() -> None:
    """Files, user and password are read from it; half of a pair is refused by name."""
    config = config_from(
        {
            "TALLYSTICK_ETCD_CA": "ca.pem",
            "TALLYSTICK_ETCD_USER": "ops",
            "TALLYSTICK_ETCD_PASSWORD": "secret",
        }
    )

    assert EtcdTls(ca=Path("ca.pem")) == config.tls
    assert ("ops", "secret") == (config.username, config.password)
    assert config_from({}).tls is None
    with pytest.raises(ValueError, match="certificate and key"):
        config_from({"TALLYSTICK_ETCD_CERT": "a.pem"})
