"""What discovery reads: names and addresses, what is in the registry, what etcd says, files."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

from tallystick.etcd.v3 import etcd_pb2 as pb

from balancer.subchannel import grpc_target
from discovery import cache_file, file_resolver
from discovery.addresses import Reach, reach
from discovery.cli.text import printable, shown_key
from discovery.endpoint import (
    Endpoint,
    MalformedEndpointError,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
)
from discovery.entries import EntryRules, ServiceEntries
from discovery.etcd_client import Pages, WatchReader
from discovery.etcd_config import EtcdClientConfig, config_from, parse_endpoints
from discovery.etcd_types import (
    CompactedError,
    GapError,
    PermissionDeniedError,
    RejectedError,
    ResourceExhaustedError,
    StoreRolledBackError,
    UnauthenticatedError,
    UnavailableError,
)
from discovery.files import UnusableFileError
from discovery.target import InvalidTargetError, parse_target
from discovery.variables import CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE, USER_VARIABLE
from tests.fuzz.target import Feed, Target, check_shown, message_in

SERVICE = "tallystick/ledger"
PREFIX = f"{SERVICE}/".encode()
ENDPOINT = Endpoint(
    "10.0.0.7:50051",
    id="ledger-0",
    zone="a",
    weight=3,
    version="1",
    services=("tallystick.ledger.v1.LedgerService",),
    started_at="2026-01-01T00:00:00+00:00",
)
VALUE = encode_value(ENDPOINT)
VALUE_OF_OBJECT = json.dumps({"addr": "[::1]:1", "metadata": {"draining": True}}).encode()
JSON_WORDS = (
    b"null", b"true", b"1e999", b"-0", b"NaN", b'"\\ud800"', b"[[[[[[[[", b"{}", b'""', b"9" * 40,
    b"\xef\xbb\xbf", b"\x00",
)  # fmt: skip
ENDPOINT_WORDS = (
    *JSON_WORDS, b'"Op"', b'"Addr"', b'"Metadata"', b'"weight"', b'"draining"', b'"services"',
    b'"zone"', b'"id"', b'"version"', b'"started_at"', b"10.0.0.7:50051", b"[::1]:1",
)  # fmt: skip


def text_of(data: bytes) -> str:
    """As the system hands over arguments and variables: any byte may be in it."""
    return data.decode("utf-8", "surrogateescape")


def _value(data: bytes) -> None:
    endpoint = decode_value(data)
    with suppress(MalformedEndpointError):
        # Written by us it may be over the limit, since we write all fields.
        assert endpoint == decode_value(encode_value(endpoint))
    service, name = decode_key(encode_key(SERVICE, endpoint))
    assert (SERVICE, endpoint.address) == (service, name)


def _key(data: bytes) -> None:
    service, name = decode_key(data)
    assert data == f"{service}/{name}".encode()
    check_shown(printable(shown_key(data)))


def _address(data: bytes) -> None:
    text = text_of(data)
    found = reach(text)
    host, _, port = text.rpartition(":")
    if found is Reach.MALFORMED:
        return
    assert text.isascii()
    assert 1 <= int(port) <= 65_535
    if host.startswith("["):
        socket.inet_pton(socket.AF_INET6, host[1:-1].partition("%")[0])
    else:
        _check_one_meaning(host)
    # gRPC is told that it is a number exactly where it is one.
    is_numeric = host.startswith("[") or _is_quad(host)
    assert grpc_target(text).startswith(("ipv4:", "ipv6:") if is_numeric else "dns:///")


def _is_quad(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return False
    return True


def _check_one_meaning(host: str) -> None:
    """What C takes for a number is written as everybody writes it."""
    with suppress(OSError):
        assert host == socket.inet_ntoa(socket.inet_aton(host))


def _target(data: bytes) -> None:
    target = parse_target(text_of(data))
    assert target == parse_target(str(target))
    assert bool(target.service) is (target.scheme == "etcd")


def _etcd_endpoints(data: bytes) -> None:
    for each in parse_endpoints(text_of(data).split(","), EtcdClientConfig()):
        assert each.address.isascii()
        assert 1 <= int(each.address.rpartition(":")[2]) <= 65_535


def _etcd_variables(data: bytes) -> None:
    lines = data.split(b"\n")
    names = (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE, USER_VARIABLE)
    config = config_from(dict(zip(names, map(text_of, lines), strict=False)))
    assert "password=" not in repr(config)


def _cache(data: bytes) -> None:
    entries = cache_file._decode(data, SERVICE)
    assert entries == cache_file._decode(cache_file._encode(SERVICE, entries), SERVICE)


def _file(data: bytes) -> None:
    for service, endpoints in file_resolver._parse(data).items():
        assert parse_target(f"etcd:///{service}").service == service
        addresses = [each.address for each in endpoints]
        assert addresses == sorted(set(addresses))


def _registry(data: bytes) -> None:
    """What etcd sends: pages of a listing, then events; each may be any message of its type."""
    feed = Feed(data)
    entries = ServiceEntries(SERVICE, EntryRules(accept_loopback=False))
    pages, watch = Pages(PREFIX, 10), WatchReader(PREFIX, feed.number(4))
    entries.begin_listing()
    while feed:
        kind, raw = feed.number(3), feed.some(255)
        if kind == 0:
            page = message_in(pb.RangeResponse, raw)
            if page is None:
                continue
            entries.add_page(pages.feed(page))
            changes = entries.finish_listing()
            entries.begin_listing()
        else:
            response = message_in(pb.WatchResponse, raw)
            batch = None if response is None else watch.feed(response)
            if batch is None:
                continue
            changes = entries.apply(batch)
        for remark in changes.remarks:
            check_shown(printable(remark.reason))
        addresses = [each.address for each in entries.endpoints()]
        assert addresses == sorted(set(addresses))
        assert len(entries) == len(addresses)


def _event_seed(*events: pb.Event) -> bytes:
    raw = pb.WatchResponse(events=events).SerializeToString()
    return bytes([1, len(raw)]) + raw


def _page_seed(*entries: pb.KeyValue) -> bytes:
    raw = pb.RangeResponse(kvs=entries).SerializeToString()
    return bytes([0, 0, len(raw)]) + raw


_KEY_VALUE = pb.KeyValue(
    key=PREFIX + b"1", value=b'{"Addr":"10.0.0.7:1"}', mod_revision=5, version=1, lease=7
)
_AGAIN = pb.KeyValue(key=PREFIX + b"1", value=b"?", mod_revision=6, version=2)
_GONE = pb.KeyValue(key=PREFIX + b"1", mod_revision=7)

TARGETS = (
    Target(
        "endpoint-value",
        _value,
        (MalformedEndpointError,),
        (VALUE, VALUE_OF_OBJECT, b'{"Addr":"a:1","Metadata":"{}"}'),
        ENDPOINT_WORDS,
    ),
    Target("endpoint-key", _key, (MalformedEndpointError,), (PREFIX + b"10.0.0.7:1", b"a/b/c")),
    Target(
        "address",
        _address,
        (),
        (
            b"10.0.0.7:50051",
            b"[::1]:1",
            b"[::ffff:127.0.0.1]:1",
            b"[fe80::1%eth0]:1",
            b"a.b:1",
            b"127.1:1",
            b"0x7f.0.0.1:1",
            b"localhost.:80",
            b"2130706433:1",
            b"1.2.3.4.:1",
        ),
        (b"0x", b".", b":", b"[", b"]", b"%", b"::ffff:", b"localhost", b"65535", b"127"),
    ),
    Target(
        "target",
        _target,
        (InvalidTargetError,),
        (b"ledger", b"etcd:///tallystick/ledger", b"static:///10.0.0.7:1,b:2"),
        (b"etcd:///", b"static:///", b",", b"/", b"[::1]:1", b"dns:///"),
    ),
    Target(
        "etcd-endpoints",
        _etcd_endpoints,
        (ValueError,),
        (b"127.0.0.1:2379", b"http://a:1,http://b:2/", b"https://[::1]:2379"),
        (b"http://", b"https://", b",", b"/", b":", b"65536", "٣".encode()),
    ),
    Target(
        "etcd-variables", _etcd_variables, (ValueError,), (b"ca\ncert\nkey\n", b"\n\n\n"), (b"\n",)
    ),
    Target(
        "cache-file",
        _cache,
        (UnusableFileError,),
        (cache_file._encode(SERVICE, [(PREFIX + b"a:1", VALUE), (b"\xff", b"\0")]),),
        (*JSON_WORDS, b'"version"', b'"service"', b'"entries"', SERVICE.encode()),
    ),
    Target(
        "endpoints-file",
        _file,
        (UnusableFileError,),
        (
            b'{"tallystick/ledger":["10.0.0.7:50051",{"address":"10.0.0.8:1","zone":"a"}]}',
            b'{"a":[],"b/c":[{"address":"[::1]:1","services":["x"],"draining":true,"weight":2}]}',
        ),
        (*ENDPOINT_WORDS, b'"address"'),
    ),
    Target(
        "registry",
        _registry,
        (
            CompactedError,
            GapError,
            PermissionDeniedError,
            RejectedError,
            ResourceExhaustedError,
            StoreRolledBackError,
            UnauthenticatedError,
            UnavailableError,
        ),
        (
            _page_seed(_KEY_VALUE)
            + _event_seed(pb.Event(kv=_AGAIN), pb.Event(type=pb.EVENT_TYPE_DELETE, kv=_GONE)),
            b"\0" + _event_seed(pb.Event(kv=_KEY_VALUE)),
        ),
        (PREFIX, b'{"Addr":"10.0.0.7:1"}'),
    ),
)
