import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.addresses import Reach, reach
from discovery.endpoint import (
    MAX_FIELD_CHARS,
    MAX_SERVICES,
    MAX_VALUE_BYTES,
    MAX_WEIGHT,
    Endpoint,
    InvalidServiceNameError,
    MalformedEndpointError,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
    service_prefix,
)

_HOSTS = st.one_of(
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,40}[a-z]", fullmatch=True),
    st.ip_addresses(v=4, network="10.0.0.0/8").map(str),
    st.ip_addresses(v=6, network="fd00::/8").map("[{}]".format),
).filter(lambda host: reach(f"{host}:1") is Reach.ANYWHERE)
_PRINTABLE = st.text(max_size=40).filter(str.isprintable)
_SERVICES = st.from_regex(r"[a-z][a-z0-9_-]{0,9}(/[a-z][a-z0-9._-]{0,9}){0,3}", fullmatch=True)
_ENDPOINTS = st.builds(
    Endpoint,
    address=st.builds("{}:{}".format, _HOSTS, st.integers(1, 65535)),
    id=_PRINTABLE,
    zone=_PRINTABLE,
    weight=st.integers(1, MAX_WEIGHT),
    version=_PRINTABLE,
    services=st.lists(_PRINTABLE, max_size=5).map(tuple),
    started_at=_PRINTABLE,
    draining=st.booleans(),
)
_FULL = Endpoint(
    "10.0.0.7:50051",
    id="ledger-0",
    zone="a",
    weight=3,
    version="1.2",
    services=("tallystick.ledger.v1.LedgerService",),
    started_at="2025-01-31T12:00:00Z",
    draining=True,
)


@given(_ENDPOINTS)
def test_a_value_reads_back(endpoint: Endpoint) -> None:
    """Whatever can be written reads back equal."""
    assert endpoint == decode_value(encode_value(endpoint))


@given(_SERVICES, _ENDPOINTS)
def test_a_key_reads_back(service: str, endpoint: Endpoint) -> None:
    """A key splits into the service and the address it was made of."""
    assert (service, endpoint.address) == decode_key(encode_key(service, endpoint))


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["Op", "Addr", "Metadata", "weight", "services", "x"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_an_endpoint_or_malformed(value: bytes) -> None:
    """Reading arbitrary bytes raises the one named error or nothing."""
    with contextlib.suppress(MalformedEndpointError):
        assert isinstance(decode_value(value), Endpoint)


def test_the_value_is_written_as_go_writes_it() -> None:
    """Field order, compactness and metadata as a string are those of etcd's Go manager."""
    assert encode_value(_FULL) == (
        b'{"Op":0,"Addr":"10.0.0.7:50051","Metadata":"{'
        b'\\"id\\":\\"ledger-0\\",\\"zone\\":\\"a\\",\\"weight\\":3,\\"version\\":\\"1.2\\",'
        b'\\"services\\":[\\"tallystick.ledger.v1.LedgerService\\"],'
        b'\\"started_at\\":\\"2025-01-31T12:00:00Z\\",\\"draining\\":true}"}'
    )


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        (b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":null}', Endpoint("1.2.3.4:80")),
        (b'{"Addr":"1.2.3.4:80","Metadata":"..."}', Endpoint("1.2.3.4:80")),
        (b'{"Addr":"1.2.3.4:80"}', Endpoint("1.2.3.4:80")),
        (b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":7}', Endpoint("1.2.3.4:80")),
        (b'{"Op":0,"Addr":"[::1]:80","Metadata":""}', Endpoint("[::1]:80")),
        (
            b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"zone":"b","weight":2,"new":[]}}',
            Endpoint("1.2.3.4:80", zone="b", weight=2),
        ),
        (
            b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":"{\\"draining\\":true,\\"zone\\":null}"}',
            Endpoint("1.2.3.4:80", draining=True),
        ),
    ],
)
def test_what_go_clients_write_is_read(value: bytes, endpoint: Endpoint) -> None:
    """Metadata may be a string, an object, null, missing or somebody else's."""
    assert endpoint == decode_value(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 10_000,
        b"9" * 5_000,
        b'{"Op":1,"Addr":"1.2.3.4:80"}',
        b'{"Op":false,"Addr":"1.2.3.4:80"}',
        b'{"Op":0}',
        b'{"Op":0,"Addr":""}',
        b'{"Op":0,"Addr":"1.2.3.4"}',
        b'{"Op":0,"Addr":"1.2.3.4:0"}',
        b'{"Op":0,"Addr":"1.2.3.4:65536"}',
        b'{"Op":0,"Addr":"unix:/run/evil.sock"}',
        b'{"Op":0,"Addr":"dns:///evil:80"}',
        b'{"Op":0,"Addr":"user@evil:80"}',
        b'{"Op":0,"Addr":"evil:80\\n"}',
        '{"Op":0,"Addr":"1.2.3.4:\u0668\u0660"}'.encode(),
        b'{"Op":0,"Addr":["1.2.3.4:80"]}',
        b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"weight":0}}',
        b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"weight":1.5}}',
        b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"weight":true}}',
        b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"zone":1}}',
        b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"zone":"\\ud800"}}',
        b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"services":"a"}}',
        b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"services":[1]}}',
        b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":{"draining":"yes"}}',
        b'{"Op":0,"Addr":"1.2.3.4:80","Metadata":"' + b"x" * MAX_VALUE_BYTES + b'"}',
    ],
)
def test_a_malformed_value_raises_the_named_error(value: bytes) -> None:
    """Hostile, oversized and mistyped values are all one error."""
    with pytest.raises(MalformedEndpointError):
        decode_value(value)


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 0},
        {"weight": MAX_WEIGHT + 1},
        {"zone": "a\r\nb"},
        {"version": "x" * (MAX_FIELD_CHARS + 1)},
        {"services": ("s",) * (MAX_SERVICES + 1)},
        {"services": ["s"]},
        {"draining": 1},
    ],
)
def test_an_endpoint_refuses_what_it_could_not_keep(fields: dict[str, Any]) -> None:
    """Limits hold for our own endpoints too, at construction."""
    with pytest.raises(MalformedEndpointError):
        Endpoint("a:1", **fields)


def test_a_value_over_the_limit_is_not_written() -> None:
    """Fields within their limits can still be too much together."""
    names = tuple("s" * MAX_FIELD_CHARS for _ in range(MAX_SERVICES))

    with pytest.raises(MalformedEndpointError):
        encode_value(Endpoint("a:1", services=names))


def test_the_key_has_no_leading_slash() -> None:
    """The key is the service, a slash and the address."""
    assert encode_key("tallystick/ledger", _FULL) == b"tallystick/ledger/10.0.0.7:50051"


def test_the_prefix_does_not_cover_a_longer_name() -> None:
    """`ledger` never lists `ledger2`."""
    assert service_prefix("tallystick/ledger") == b"tallystick/ledger/"


def test_an_entry_may_have_any_name() -> None:
    """Go users name entries freely; the address stands in the value."""
    assert decode_key(b"foo/bar/my-service/e1") == ("foo/bar/my-service", "e1")


@pytest.mark.parametrize("key", [b"", b"name", b"/name", b"a/", b"/a/b", b"a//b", b"\xff/a"])
def test_a_malformed_key_raises_the_named_error(key: bytes) -> None:
    """A key without a service or a name is malformed."""
    with pytest.raises(MalformedEndpointError):
        decode_key(key)


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "..", "a b", "a\n", "ä", "a" * 300])
def test_a_service_name_that_cannot_be_a_prefix_is_refused(name: str) -> None:
    """A service name is made of plain segments."""
    with pytest.raises(InvalidServiceNameError):
        service_prefix(name)


@pytest.mark.parametrize("value", [b'{"addr":"a:1"}', b'{"op":0,"ADDR":"a:1","metadata":"{}"}'])
def test_field_names_in_any_case_are_read(value: bytes) -> None:
    """As Go's encoding/json reads them, so people write them by hand."""
    assert Endpoint("a:1") == decode_value(value)
