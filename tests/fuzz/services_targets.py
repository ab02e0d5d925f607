"""What services read: money, HTTP requests for metrics, settings, files of the launcher."""

from __future__ import annotations

import tempfile
from decimal import Decimal
from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter
from tallystick.type.v1 import money_pb2

from discovery.variables import ETCD_VARIABLE
from services import housekeeping
from services.backup import manifest
from services.backup.errors import NotABackup
from services.backup.manifest import File, Manifest
from services.backup.report import lines
from services.edge import _readable
from services.errors import InvalidArgument
from services.launcher import environment, logs, packages, plan, settings, status
from services.launcher.catalogue import CATALOGUE, REPLICAS_MAX, parse_replicas, shown
from services.launcher.errors import EtcdUnavailable, ReplicasError
from services.launcher.mesh import tail
from services.launcher.processes import Identity
from services.metrics_page import MetricsPage
from services.money import MINOR_UNIT_PLACES, Money
from services.runtime import METRICS_PORT_OFFSET, CannotStart, host_and_port, metrics_address
from services.wallet import passwords
from services.wire import money_from, money_out
from tests.fuzz.target import Feed, Target, check_shown


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _money(data: bytes) -> None:
    """Between the wire, our own type and people an amount stays what it is."""
    read = _readable(money_pb2.Money.FromString)(data)
    if read is None:
        return
    assert isinstance(read, money_pb2.Money)
    money = money_from(read, "amount")
    assert money_out(money.currency_code, money.amount_minor) == money_pb2.Money(
        currency_code=read.currency_code, amount_minor=read.amount_minor
    )
    number, _, code = str(money).partition(" ")
    places = MINOR_UNIT_PLACES[money.currency_code]
    assert (code, -places) == (money.currency_code, Decimal(number).as_tuple().exponent)
    assert Money(money.currency_code, int(Decimal(number).scaleb(places))) == money


_MANIFEST = Manifest(
    "sqlite", "2026-01-01", "1", 0.5, {"a": {"a": 1}}, {"LOST": 1}, {"a.db": File(1, "00")}
)


def _manifest(data: bytes) -> None:
    """What is taken can be shown, names files beside it, and is written again as it was read."""
    read = manifest.decoded(data)
    assert manifest.decoded(read.encoded()) == read
    assert all("/" not in name and name.isprintable() for name in read.files)
    for line in lines(read, None):
        check_shown(line)


@cache
def _page() -> MetricsPage:
    registry = CollectorRegistry()
    Counter("seen", "Some number.", registry=registry).inc()
    return MetricsPage(registry)


def _http(data: bytes) -> None:
    """Every head of a request gets one whole answer."""
    answer = _page()._answer(data)
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *fields = head.decode("ascii").split("\r\n")
    assert line in (
        "HTTP/1.1 200 OK",
        "HTTP/1.1 400 Bad Request",
        "HTTP/1.1 404 Not Found",
        "HTTP/1.1 405 Method Not Allowed",
    )
    said = dict(field.split(": ", 1) for field in fields)
    assert said["Connection"] == "close"
    assert len(body) in (int(said["Content-Length"]), 0)
    # No field of the answer is of the caller's making.
    assert said.keys() <= {"Content-Type", "Content-Length", "Connection", "Allow"}


def _replicas(data: bytes) -> None:
    counts = parse_replicas(_text(data), CATALOGUE)
    assert counts == parse_replicas(shown(counts), CATALOGUE)
    assert all(1 <= counts[each.name] <= REPLICAS_MAX for each in CATALOGUE)


def _etcd_setting(data: bytes) -> None:
    for endpoint in settings.from_environment({ETCD_VARIABLE: _text(data)}).etcd:
        assert 0 < int(endpoint.rpartition(":")[2]) <= settings.PORT_MAX


def _plan(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        found = plan.load(Path(file.name))
        Path(file.name).write_bytes(plan.encode(found))
        assert found == plan.load(Path(file.name))


def _status(data: bytes) -> None:
    found = status.decode(data)
    assert found == status.decode(status.encode(found))


def _stamp(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        assert isinstance(environment._read_stamp(Path(file.name)), dict)


def _pip(data: bytes) -> None:
    found = packages.uv_environment(packages.pip_settings(_text(data)))
    assert all(isinstance(value, str) for value in found.values())


def _listen(data: bytes) -> None:
    feed = Feed(data)
    offset, address = _text(feed.some(20)), _text(feed.rest())
    host, port = host_and_port(address)
    assert 0 < port < 65_536
    check_shown(host)
    metrics = metrics_address(address, {METRICS_PORT_OFFSET: offset})
    assert metrics == "" or host_and_port(metrics)[1] >= port


def _intervals(data: bytes) -> None:
    variables = dict.fromkeys((housekeeping.RETENTION, housekeeping.INTERVAL), _text(data))
    assert housekeeping.log_keeper_config(variables).interval_s > 0
    assert housekeeping.forgetter_config(variables).interval_s > 0


def _password_memory(data: bytes) -> None:
    said = passwords.memory_cost_kib({passwords.MEMORY_COST: _text(data)})
    assert passwords.MEMORY_COST_MIN_KIB <= said <= passwords.MEMORY_COST_MAX_KIB


def _log(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        lines, end = logs._read(Path(file.name), 0)
        assert 0 <= end <= len(data)
        for line in [*tail(Path(file.name), 3), *lines]:
            line.encode()


_PROCESS = status.ProcessStatus("ledger-0", "ledger", 0, "a:1", identity=Identity(1, "b:2"))
_PLAN = plan.MeshPlan(
    "/home", "/repository", ("a:1",), (plan.ProcessPlan("a-0", "a", 0, "a:1", ("x", "y")),)
)

TARGETS = (
    Target(
        "money",
        _money,
        (InvalidArgument,),
        tuple(
            money_out(code, amount).SerializeToString()
            for code, amount in (("EUR", 1230), ("JPY", -7), ("BHD", 1), ("EUR", 2**63 - 1))
        ),
        (b"EUR", b"JPY", b"KWD", b"\x0a\x03", b"\x10"),
    ),
    Target(
        "metrics-http",
        _http,
        (),
        (
            b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain;version=0.0.4\r\n\r\n",
            b"HEAD /metrics?x HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"PUT /metrics HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n",
        ),
        (
            b"Accept:",
            b"application/openmetrics-text",
            b";version=",
            b";escaping=",
            b"q=",
            b",",
            b"allow-utf-8",
            b"\r\n",
            b"text/plain",
            b"*/*",
            b"1.0.0",
            b"=",
            b"0.0.1",
            b"dots",
        ),
    ),
    Target(
        "replicas",
        _replicas,
        (ReplicasError,),
        (b"order=2 ledger=3", b"wallet=1,order=10", b"coordinator=2"),
        (b"order=", b"ledger=", b",", b" ", "²".encode(), b"9" * 40),
    ),
    Target(
        "etcd-setting",
        _etcd_setting,
        (EtcdUnavailable,),
        (b"127.0.0.1:2379", b"http://a:1/,b:2 c:3"),
        (b"http://", "²".encode(), b"65536", b":", b"/", b"9" * 40),
    ),
    Target("plan-file", _plan, (ValueError,), (plan.encode(_PLAN), b"{}", b"[]"), (b'"etcd"',)),
    Target(
        "status-file",
        _status,
        (ValueError,),
        (status.encode(status.MeshStatus(Identity(1, "b"), (_PROCESS,), ("a:1",))), b"{}", b"[]"),
        (b'"pid"', b'"birth"', b'"state"', b'"SERVING"', b"null"),
    ),
    Target(
        "backup-manifest",
        _manifest,
        (NotABackup,),
        (_MANIFEST.encoded(), b"{}", b"[]", b"\xff", b'{"format": 2}'),
        (b'"format"', b'"files"', b"null", b"NaN", b"1e999", b'"../x"', b"\\ud800", b"\\n"),
    ),
    Target("stamp-file", _stamp, (), (b'{"path":"/x"}', b"[]", b"[" * 20), (b"[[[[[[[[",)),
    Target(
        "pip-settings",
        _pip,
        (),
        (b"global.index-url='https://a/'\n:env:.proxy='p'\n", b"global.find-links='a\\nb'"),
        (b"global.", b"install.", b":env:.", b"extra-index-url", b"=", b"'", b"\\x", b"((((("),
    ),
    Target(
        "listening-address",
        _listen,
        (CannotStart,),
        (b"\x041000127.0.0.1:50051", b"\0[::1]:1", b"\1\xc2localhost:2", "\2²127.0.0.1:²".encode()),
        ("²".encode(), b"127.0.0.1", b":", b"65535", b"[", b"]", b"%", b"9" * 40),
    ),
    Target("intervals", _intervals, (CannotStart,), (b"1", b"1e3", b"inf", b"0"), (b"nan", b"_")),
    Target(
        "password-memory",
        _password_memory,
        (CannotStart,),
        (b"65536", b"", b"19455", "٦٥٥٣٦".encode()),
        (b"_", b"-", b"0", b"9" * 40),
    ),
    Target("log-lines", _log, (), (b"a\nb\r\nc\n\xff", b"")),
)
