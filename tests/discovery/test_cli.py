"""`python -m discovery` against a real etcd."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import discovery
from discovery import Endpoint, EtcdClient, EtcdResolver, Registrar, decode_value, encode_value
from discovery.cli.main import main
from tests.discovery.cli.shell import ran, running, said
from tests.discovery.conftest import StartEtcd
from tests.discovery.helpers import Recorder, happens
from tests.support.certificates import Authority
from tests.support.etcd import EtcdOptions, EtcdProcess

LEDGER = "tallystick/ledger"
ADDRESS = "127.0.0.1:50061"
NOBODY = "127.0.0.1:1"


def _put(etcd: EtcdProcess, endpoint: Endpoint, service: str = LEDGER) -> None:
    etcd.put(f"{service}/{endpoint.address}", encode_value(endpoint))


# --- ls ---


async def test_ls_counts_what_each_service_has(etcd: EtcdProcess) -> None:
    """A line for each service below tallystick/: endpoints, draining ones, skipped ones."""
    _put(etcd, Endpoint("10.0.0.7:1", draining=True))
    _put(etcd, Endpoint("10.0.0.8:1"))
    _put(etcd, Endpoint("10.0.0.9:1"), "tallystick/order")
    _put(etcd, Endpoint("10.0.0.9:1"), "acme/greeter")
    etcd.put(f"{LEDGER}/bad", b"not JSON")

    result = await ran("ls", TALLYSTICK_ETCD=etcd.endpoint)

    assert [
        ["SERVICE", "ENDPOINTS", "DRAINING", "SKIPPED"],
        ["tallystick/ledger", "2", "1", "1"],
        ["tallystick/order", "1", "0", "0"],
    ] == [line.split() for line in result.out.splitlines()]
    assert "discovery: skipped tallystick/ledger/bad: not JSON\n" in result.err
    assert result.code == 0


async def test_ls_of_a_prefix_lists_what_is_below_it(etcd: EtcdProcess) -> None:
    """Services of other namespaces are found by their own."""
    _put(etcd, Endpoint("10.0.0.9:1"), "acme/greeter")
    result = await said("ls", "acme/", "--json", "--etcd", etcd.endpoint)
    (service,) = json.loads(result.out)["services"]
    assert ("acme/greeter", 1) == (service["service"], service["endpoints"])


async def test_ls_of_a_service_lines_its_endpoints_up(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """Every column begins at the same place in every line; what is empty is a dash."""
    registrar = Registrar(client)
    here = Endpoint(ADDRESS, id="ledger-0", zone="a", weight=5, version="1.2", draining=True)
    registration = await registrar.register(LEDGER, here)
    await happens(registration.registered)
    _put(etcd, Endpoint("10.0.0.7:1"))

    result = await said("ls", "ledger", "--etcd", etcd.endpoint)
    heading, plain, full = result.out.splitlines()
    await registrar.close()

    assert ["10.0.0.7:1", "-", "-", "1", "-", "-", "-", "-"] == plain.split()
    assert [ADDRESS, "ledger-0", "a", "5", "1.2", "yes", "-"] == full.split()[:-1]
    assert {heading.index("ZONE"), heading.index("DRAINING")} == {
        full.index(" a ") + 1,
        full.index("yes"),
    }


async def test_ls_as_json_names_key_and_lease(etcd: EtcdProcess, client: EtcdClient) -> None:
    """One object, with all that is known of each endpoint, and what was wrong."""
    lease = await client.lease_grant(60)
    key = f"{LEDGER}/e1"
    endpoint = Endpoint(ADDRESS, zone="ä", services=("a.B",))
    await client.put(key.encode(), encode_value(endpoint), lease_id=lease.lease_id)
    etcd.put(f"{LEDGER}/bad", b"{}", lease_id=lease.lease_id)

    result = await said("--json", "ls", "ledger", "--etcd", etcd.endpoint)

    shown = json.loads(result.out)
    assert {
        "address": ADDRESS, "id": "", "zone": "ä", "weight": 1, "version": "", "services": ["a.B"],
        "started_at": "", "draining": False, "key": key, "lease": f"{lease.lease_id:x}",
    } == shown["endpoints"][0]  # fmt: skip
    assert [(f"{LEDGER}/bad", True)] == [
        (each["key"], each["skipped"]) for each in shown["remarks"]
    ]
    assert result.out.isascii()
    assert result.out.count("\n") == 1


async def test_ls_of_nobody_fails(etcd: EtcdProcess) -> None:
    """A service without endpoints is a line on stderr and exit code 1."""
    result = await said("ls", "nobody", "--etcd", etcd.endpoint)
    assert (1, "", "discovery: tallystick/nobody has no endpoint\n") == result


async def test_ls_shows_the_endpoint_that_a_resolver_would_use(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """Of several keys with one address the same counts, and the others are said to be hidden."""
    lease = await client.lease_grant(60)
    await client.put(
        f"{LEDGER}/leased".encode(), encode_value(Endpoint(ADDRESS, zone="leased")),
        lease_id=lease.lease_id,
    )  # fmt: skip
    etcd.put(f"{LEDGER}/newer", encode_value(Endpoint(ADDRESS, zone="newer")))
    resolver, heard = EtcdResolver(client), Recorder()
    resolver.subscribe(LEDGER, heard)
    await heard.hears(ADDRESS)
    await resolver.close()

    result = await said("ls", "ledger", "--json", "--etcd", etcd.endpoint)

    shown = json.loads(result.out)
    assert [heard.endpoint(ADDRESS).zone] == [each["zone"] for each in shown["endpoints"]]
    hidden = f"the same address counts under {LEDGER}/leased"
    assert hidden in [each["reason"] for each in shown["remarks"]]


async def test_hostile_values_are_never_printed_raw(etcd: EtcdProcess) -> None:
    """Keys and reasons may hold anything; what is printed is printable, and short."""
    etcd.put(f"{LEDGER}/\x1b[2J\r\n\u202eevil", b"\x1b]0;evil\x07")
    etcd.put(f"{LEDGER}/{'x' * 10_000}", json.dumps({"Addr": "\x1b[31m:1"}).encode())

    for command in (["ls"], ["ls", "ledger"], ["ls", "--json"]):
        result = await said(*command, "--etcd", etcd.endpoint)
        assert [] == [line for line in result.err.splitlines() if not line.isprintable()]
        assert [] == [line for line in result.out.splitlines() if not line.isprintable()]
        assert max(map(len, result.err.splitlines() or [""])) < 1000


async def test_remarks_without_number_are_a_few_lines(etcd: EtcdProcess) -> None:
    """The first are explained and the rest counted; JSON has them all."""
    for number in range(30):
        etcd.put(f"{LEDGER}/{number}", b"{}")

    plain = await said("ls", "--etcd", etcd.endpoint)
    as_json = await said("ls", "--json", "--etcd", etcd.endpoint)

    assert "10 more remarks; --json has them all" in plain.err.splitlines()[-1]
    assert 30 == len(json.loads(as_json.out)["services"][0]["remarks"])


# --- watch ---


async def test_watch_shows_what_is_there_and_then_each_change(etcd: EtcdProcess) -> None:
    """+ there, = that is all, ~ changed, - gone; an interrupt ends it well and quietly."""
    _put(etcd, Endpoint("10.0.0.7:1", zone="a"))
    async with running("watch", "ledger", TALLYSTICK_ETCD=etcd.endpoint) as watch:
        shown = [await watch.line(), await watch.line()]
        _put(etcd, Endpoint("10.0.0.7:1", zone="a", draining=True))
        shown.append(await watch.line())
        etcd.delete(f"{LEDGER}/10.0.0.7:1")
        shown.append(await watch.line())
        watch.interrupt()
        rest = await watch.end()

    assert [
        "+ 10.0.0.7:1  zone=a",
        "= 1 endpoint",
        "~ 10.0.0.7:1  draining=false->true",
        "- 10.0.0.7:1  zone=a  draining=true",
    ] == [line.partition(" ")[2] for line in shown]
    assert (0, "") == (rest.code, rest.out)
    assert "Traceback" not in rest.err


async def test_watch_goes_on_while_etcd_is_away(etcd: EtcdProcess) -> None:
    """It says so once, and shows what changed when etcd is back; SIGTERM ends it well."""
    _put(etcd, Endpoint("10.0.0.7:1"))
    async with running("watch", "ledger", "--json", "--etcd", etcd.endpoint) as watch:
        events = [json.loads(await watch.line())["event"] for _ in range(2)]
        etcd.kill9()
        lost = json.loads(await watch.line())
        etcd.start()
        found = json.loads(await watch.line())
        _put(etcd, Endpoint("10.0.0.8:1"))
        added = json.loads(await watch.line())
        watch.interrupt(signal.SIGTERM)
        rest = await watch.end()

    assert ["added", "current"] == events
    assert ("lost", "current") == (lost["event"], found["event"])
    assert ("added", "10.0.0.8:1") == (added["event"], added["endpoint"]["address"])
    assert 0 == rest.code


async def test_watch_begins_before_etcd_does() -> None:
    """Without etcd it says so and waits."""
    async with running("watch", "ledger", "--etcd", NOBODY) as watch:
        line = await watch.line()
        watch.interrupt()
        rest = await watch.end()
    assert "! UNAVAILABLE" in line
    assert (0, "", "") == rest


async def test_watch_ends_when_its_reader_leaves(etcd: EtcdProcess) -> None:
    """`watch | head -1` ends at once and quietly, not at the next change."""
    _put(etcd, Endpoint("10.0.0.7:1"))
    async with running("watch", "ledger", "--etcd", etcd.endpoint) as watch:
        shown = await watch.line()
        watch.stop_reading()
        rest = await watch.end()

    assert "10.0.0.7:1" in shown
    assert 141 == rest.code
    assert "BrokenPipe" not in rest.err
    assert "Traceback" not in rest.err


# --- register and drain ---


async def test_register_keeps_an_endpoint_until_it_is_stopped(etcd: EtcdProcess) -> None:
    """It stands under a lease with all that was given, and is taken out at the end."""
    given = ("--id", "l-0", "--zone", "a", "--weight", "3", "--version", "1.2", "--ttl", "4")
    async with running("register", "ledger", ADDRESS, *given, "--etcd", etcd.endpoint) as one:
        registered = await one.line()
        (value,) = etcd.entries(f"{LEDGER}/").values()
        lease_id = etcd.lease_of(f"{LEDGER}/{ADDRESS}")
        one.interrupt(signal.SIGTERM)
        rest = await one.end()

    endpoint = decode_value(value)
    assert f"registered {LEDGER} {ADDRESS}" == registered
    assert (0, f"deregistered {LEDGER} {ADDRESS}\n", "") == rest
    assert {} == etcd.entries()
    assert lease_id != 0
    assert endpoint.started_at.endswith("Z")
    shown = (endpoint.id, endpoint.zone, endpoint.weight, endpoint.version)
    assert ("l-0", "a", 3, "1.2") == shown


async def test_register_waits_for_etcd_and_says_when_it_cannot_take_the_endpoint_out(
    etcd: EtcdProcess,
) -> None:
    """It begins before etcd does; stopped while etcd is away it fails and names the lease."""
    etcd.stop()
    async with running("register", "ledger", ADDRESS, "--etcd", etcd.endpoint) as one:
        waiting = await one.error_line()
        etcd.start()
        registered = await one.line()
        etcd.kill9()
        one.interrupt()
        rest = await one.end()

    assert "does not answer" in waiting
    assert "will keep trying" in waiting
    assert f"registered {LEDGER} {ADDRESS}" == registered
    assert 3 == rest.code
    assert f"{ADDRESS} goes with its lease" in rest.err.splitlines()[-1]


async def test_drain_marks_what_another_process_registered(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """Its lease stays, everything else too, and it can be undone."""
    registrar = Registrar(client)
    registration = await registrar.register(LEDGER, Endpoint(ADDRESS, zone="a"))
    await happens(registration.registered)
    lease_id = etcd.lease_of(f"{LEDGER}/{ADDRESS}")

    drained = await said("drain", "ledger", ADDRESS, "--etcd", etcd.endpoint)
    (value,) = etcd.entries(f"{LEDGER}/").values()
    again = await said("drain", "ledger", ADDRESS, "--etcd", etcd.endpoint)
    undone = await said("drain", "ledger", ADDRESS, "--undo", "--json", "--etcd", etcd.endpoint)
    (value_after,) = etcd.entries(f"{LEDGER}/").values()
    lease_after = etcd.lease_of(f"{LEDGER}/{ADDRESS}")
    await registrar.close()

    assert (0, f"{LEDGER} {ADDRESS} is draining\n", "") == drained
    assert (0, f"{LEDGER} {ADDRESS} is draining already\n", "") == again
    assert Endpoint(ADDRESS, zone="a", draining=True) == decode_value(value)
    assert Endpoint(ADDRESS, zone="a") == decode_value(value_after)
    assert (False, True) == (json.loads(undone.out)["draining"], json.loads(undone.out)["changed"])
    assert lease_id == lease_after != 0


async def test_drain_finds_an_endpoint_under_any_key(etcd: EtcdProcess) -> None:
    """Go users name keys freely; what else they wrote stays."""
    etcd.put(f"{LEDGER}/e1", b'{"Op":0,"Addr":"10.0.0.7:1","Metadata":{"shard":7},"Extra":1}')
    result = await said("drain", "ledger", "10.0.0.7:1", "--etcd", etcd.endpoint)
    (value,) = etcd.entries(f"{LEDGER}/").values()
    assert 0 == result.code
    assert {
        "Op": 0, "Addr": "10.0.0.7:1", "Metadata": {"shard": 7, "draining": True}, "Extra": 1,
    } == json.loads(value)  # fmt: skip


async def test_drain_of_nobody_fails(etcd: EtcdProcess) -> None:
    """An endpoint that is not there is a line on stderr and exit code 1."""
    result = await said("drain", "ledger", ADDRESS, "--etcd", etcd.endpoint)
    assert (1, "", f"discovery: {LEDGER} has no endpoint {ADDRESS}\n") == result


# --- the way to etcd ---


async def test_an_etcd_that_is_away_is_named() -> None:
    """One line with its endpoints, and an exit code of its own."""
    result = await ran("ls", TALLYSTICK_ETCD=f"{NOBODY}, http://127.0.0.1:2/")
    assert (3, "") == (result.code, result.out)
    assert 1 == len(result.err.splitlines())
    assert f"etcd does not answer ({NOBODY}, http://127.0.0.1:2/)" in result.err


async def test_the_next_member_is_asked(etcd: EtcdProcess) -> None:
    """A member that is down does not hide one that is up."""
    result = await said("ls", "--etcd", f"{NOBODY},{etcd.endpoint}")
    assert 0 == result.code


@pytest.mark.parametrize("command", [["ls"], ["drain", "ledger", ADDRESS]])
async def test_a_hanging_etcd_costs_no_more_than_the_timeout(
    command: list[str], etcd: EtcdProcess
) -> None:
    """It is told as one that does not answer."""
    etcd.freeze()
    try:
        result = await said(*command, "--timeout", "0.3", "--etcd", etcd.endpoint)
    finally:
        etcd.thaw()
    assert 3 == result.code
    assert f"etcd does not answer ({etcd.endpoint}): no answer within 0.3 s" in result.err


async def test_an_interrupt_ends_a_listing_quietly() -> None:
    """As a shell expects: 130 and no traceback."""
    reached = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with running("ls", "--timeout", "60", "--etcd", f"{host}:{port}") as listing:
            await happens(reached)
            listing.interrupt()
            result = await listing.end()

    assert (130, "", "") == result


async def test_a_user_signs_in(start_etcd: StartEtcd, tmp_path: Path) -> None:
    """With the password of the environment or of a file, whose first line counts."""
    etcd = start_etcd(EtcdOptions())
    etcd.add_user("ops", "of this test", "tallystick/")
    etcd.enable_auth()
    file = tmp_path / "password"
    file.write_text("of this test\nand a comment\n")
    signed_in = ("ls", "--etcd", etcd.endpoint, "--user", "ops")

    from_file = await said(*signed_in, "--password-file", str(file))
    from_environment = await said(*signed_in, TALLYSTICK_ETCD_PASSWORD="of this test")
    wrong = await said(*signed_in, TALLYSTICK_ETCD_PASSWORD="wrong")
    nobody = await said("ls", "--etcd", etcd.endpoint)
    elsewhere = await said(*signed_in, "acme/", TALLYSTICK_ETCD_PASSWORD="of this test")

    assert (0, 0, 1, 1, 1) == (
        from_file.code, from_environment.code, wrong.code, nobody.code, elsewhere.code,
    )  # fmt: skip
    assert [1, 1, 1] == [len(each.err.splitlines()) for each in (wrong, nobody, elsewhere)]
    assert "permission denied" in elsewhere.err
    assert "of this test" not in from_file.err + wrong.err


async def test_connections_are_encrypted(
    start_etcd: StartEtcd, authority: Authority, tmp_path: Path
) -> None:
    """With --ca, --cert and --key; an etcd that others vouch for is not spoken to."""
    tls = authority.mutual_server("127.0.0.1")
    etcd = start_etcd(EtcdOptions(tls=tls))
    assert tls.client is not None
    ours = ("--cert", str(tls.client.certificate), "--key", str(tls.client.key))
    foreign = str(Authority(tmp_path, "foreign").certificate)

    trusted = await said("ls", "--ca", str(tls.ca), *ours, "--etcd", etcd.endpoint)
    untrusted = await ran("ls", "--ca", foreign, *ours, "--etcd", etcd.endpoint)

    assert 0 == trusted.code
    assert 3 == untrusted.code
    # gRPC's core has a line of its own for each handshake that fails, whatever it is told.
    (line,) = [each for each in untrusted.err.splitlines() if each.startswith("discovery: ")]
    assert "etcd does not answer" in line
    assert "Traceback" not in untrusted.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["list"], "invalid choice"),
        (["ls", "a b"], "not a service name"),
        (["ls", "static:///a:1"], "not in the registry"),
        (["ls", "/"], "not a service name"),
        (["watch"], "SERVICE"),
        (["register", "ledger", "localhost"], "host:port"),
        (["register", "ledger", "a:1", "--weight", "0"], "weight"),
        (["register", "ledger", "a:1", "--ttl", "1"], "--ttl"),
        (["drain", "ledger", "\x1b[2J:1"], "host:port"),
        (["ls", "--etcd", "localhost"], "not an etcd endpoint"),
        (["ls", "--etcd", ","], "endpoint"),
        (["ls", "--timeout", "nan"], "not a number of seconds"),
        (["ls", "--cert", "a.pem"], "--cert and --key go together"),
        (["ls", "--ca", "nowhere.pem"], "there is no file nowhere.pem"),
        (["ls", "--ca", __file__, "--etcd", "http://a:1"], "not encrypted"),
        (["ls", "--user", "ops"], "TALLYSTICK_ETCD_PASSWORD"),
        (["ls", "--user", "ops", "--password-file", "nowhere"], "nowhere"),
        (["ls", "--user", "ops", "--password-file", "/dev/null"], "no password"),
        (["ls", "--user", "ops", "--password", "x"], "unrecognized arguments"),
    ],
)
async def test_nonsense_is_one_line_and_exit_code_2(arguments: list[str], complaint: str) -> None:
    """Whatever is wrong is told without a traceback, and nothing is sent."""
    result = await said(*arguments)
    assert (2, "") == (result.code, result.out)
    assert complaint in result.err
    assert 1 == len(result.err.splitlines())
    assert result.err.rstrip("\n").isprintable()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the machine has no /dev/full")
async def test_an_output_that_cannot_be_written_is_one_line(etcd: EtcdProcess) -> None:
    """A full disk is told like any other failure."""
    result = await asyncio.to_thread(_on_a_full_disk, "ls", "--json", "--etcd", etcd.endpoint)
    assert (1, 1) == (result.returncode, len(result.stderr.splitlines()))
    assert "No space left" in result.stderr


def test_help_and_usage_load_nothing_that_speaks_to_etcd() -> None:
    """They are answered in a fraction of the time that gRPC takes to load."""
    program = """
import sys, types
package = sys.modules["discovery"] = types.ModuleType("discovery")
package.__path__ = [sys.argv[1]]  # without what the package itself imports
from discovery.cli.main import main
codes = [main(["--help"]), main(["ls", "a b"])]
sys.exit(f"{codes} {sorted({'grpc', 'asyncio', 'google.protobuf'} & sys.modules.keys())}")
"""
    package = str(Path(discovery.__file__).parent)
    command = [sys.executable, "-c", program, package]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert "[0, 2] []" == result.stderr.splitlines()[-1]


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` is complete and no failure."""
    assert 0 == main(["--help"], environ={})
    shown = capsys.readouterr().out
    assert "exit codes: 0 done; 1 not there, or refused; 2 usage; 3 etcd does not answer" in shown
    for name in ("ls", "watch", "register", "drain", "--password-file", "TALLYSTICK_ETCD"):
        assert name in shown


def _on_a_full_disk(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "discovery", *arguments]
    with Path("/dev/full").open("w") as full:
        return subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
