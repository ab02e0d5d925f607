"""What the shipped hash keys make of a call."""

from __future__ import annotations

import logging
from collections.abc import Callable

import grpc.aio
import pytest
from google.protobuf import (
    api_pb2,
    descriptor_pb2,
    source_context_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)

from balancer import hash_key
from balancer.errors import InvalidConfigError
from balancer.hash_key import from_callable, from_field, from_metadata
from balancer.policy import HashKey, MetadataType, PickInfo

METHOD = "/pkg.Service/Method"


def of_request(key: HashKey, request: object) -> bytes | None:
    """The key of a unary call."""
    return key(PickInfo(METHOD, (), request))


@pytest.mark.parametrize(
    ("name", "metadata", "expected"),
    [
        ("account", (("other", "1"), ("account", "7"), ("account", "8")), b"7"),
        ("account", [("account", "7")], b"7"),
        ("account", grpc.aio.Metadata(("account", "7"), ("account", "8")), b"7"),
        ("Account", (("account", "7"),), b"7"),
        ("account", (("ACCOUNT", "7"),), b"7"),
        ("account-bin", (("account-bin", b"\x00\xff"),), b"\x00\xff"),
        ("account", (("account2", "7"),), None),
        ("account", grpc.aio.Metadata(), None),
        ("account", (), None),
    ],
)
def test_metadata(name: str, metadata: MetadataType, expected: bytes | None) -> None:
    """The first value of the key, in any case and either form of metadata."""
    assert expected == from_metadata(name)(PickInfo(METHOD, metadata, None))


@pytest.mark.parametrize("name", ["", "a b", ":path", "käse", "a\n", "a,b"])
def test_no_metadata_key(name: str) -> None:
    """What cannot be the name of a metadata key is refused."""
    with pytest.raises(InvalidConfigError, match="hash_key is not the name of a metadata key"):
        from_metadata(name)


API = api_pb2.Api(
    name="ünï",
    source_context=source_context_pb2.SourceContext(file_name="a.proto"),
    syntax=type_pb2.SYNTAX_PROTO3,
)
FIELD = descriptor_pb2.FieldDescriptorProto(
    number=0, options=descriptor_pb2.FieldOptions(deprecated=True)
)


@pytest.mark.parametrize(
    ("path", "request_message", "expected"),
    [
        ("name", API, "ünï".encode()),
        ("source_context.file_name", API, b"a.proto"),
        ("syntax", API, b"1"),
        ("seconds", timestamp_pb2.Timestamp(seconds=-5), b"-5"),
        ("value", wrappers_pb2.BytesValue(value=b"\x00\x01"), b"\x00\x01"),
        ("value", wrappers_pb2.DoubleValue(value=0.1), b"0.1"),
        ("options.deprecated", FIELD, b"true"),
        ("string_value", struct_pb2.Value(string_value="x"), b"x"),
    ],
)
def test_field(path: str, request_message: object, expected: bytes) -> None:
    """Text is UTF-8, numbers are decimal, and a path leads into nested messages."""
    key = from_field(path)
    assert [expected, expected] == [of_request(key, request_message) for _ in range(2)]


@pytest.mark.parametrize(
    ("path", "request_message", "expected"),
    [
        ("name", api_pb2.Api(), None),
        ("seconds", timestamp_pb2.Timestamp(), None),
        ("source_context.file_name", api_pb2.Api(), None),
        ("number", descriptor_pb2.FieldDescriptorProto(), None),
        ("number", FIELD, b"0"),
        ("options.deprecated", descriptor_pb2.FieldDescriptorProto(), None),
        ("options.jstype", FIELD, None),
        ("number_value", struct_pb2.Value(string_value="x"), None),
    ],
)
def test_a_field_that_is_not_set(
    path: str, request_message: object, expected: bytes | None
) -> None:
    """Not set is no key; zero is one only where the message tells it from not set."""
    assert expected == of_request(from_field(path), request_message)


def test_streamed_requests_have_no_field() -> None:
    """A call that streams its requests has no key."""
    assert None is of_request(from_field("name"), None)


@pytest.mark.parametrize(
    ("path", "request_message", "reason"),
    [
        ("nome", API, "google.protobuf.Api has no field 'nome'"),
        ("source_context.nome", API, "google.protobuf.SourceContext has no field 'nome'"),
        ("name.length", API, "'name' is no message"),
        ("source_context", API, "'source_context' is a message and not a scalar"),
        ("methods.name", API, "google.protobuf.Api.methods is repeated"),
        ("fields", struct_pb2.Struct(), "google.protobuf.Struct.fields is repeated"),
        ("name", b"bytes", "bytes is no protobuf message"),
    ],
)
def test_a_field_that_does_not_exist(
    path: str, request_message: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once for the class with the reason, and those calls have no key."""
    key = from_field(path)
    with caplog.at_level(logging.ERROR, hash_key.__name__):
        assert [None, None] == [of_request(key, request_message) for _ in range(2)]
    assert [f"hash key {path!r}: {reason}; such calls go to endpoints chosen at random"] == (
        caplog.messages
    )


def test_one_channel_has_many_messages() -> None:
    """A field that one request lacks is still found in another."""
    key = from_field("name")
    assert None is of_request(key, timestamp_pb2.Timestamp(seconds=1))
    assert b"a" == of_request(key, descriptor_pb2.FieldDescriptorProto(name="a"))
    assert "ünï".encode() == of_request(key, API)


def test_the_classes_known_are_limited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the limit classes are forgotten and found again."""
    monkeypatch.setattr(hash_key, "MAX_MESSAGE_CLASSES", 2)
    key = from_field("name")
    for _ in range(2):
        assert [None, None, b"a"] == [
            of_request(key, b"1"),
            of_request(key, "2"),
            of_request(key, api_pb2.Api(name="a")),
        ]
    assert 4 == len(caplog.messages)


@pytest.mark.parametrize(
    "path", ["", ".", "a.", ".a", "a..b", "a b", "1a", "a[0]", "a." * 32 + "a"]
)
def test_no_path(path: str) -> None:
    """What cannot be the path of a field is refused."""
    with pytest.raises(InvalidConfigError, match="hash_key is not the path of a field"):
        from_field(path)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda info: info.method, METHOD.encode()),
        (lambda info: b"\xff", b"\xff"),
        (lambda info: 42, b"42"),
        (lambda info: 0, b"0"),
        (lambda info: "", b""),
        (lambda info: None, None),
    ],
)
def test_a_callable(
    function: Callable[[PickInfo], str | bytes | int | None], expected: bytes | None
) -> None:
    """A function may answer with text, bytes, an integer or None."""
    assert expected == of_request(from_callable(function), None)


def test_a_callable_that_answers_with_something_else() -> None:
    """What has no bytes of its own is an error, not a key that differs between processes."""
    with pytest.raises(TypeError, match="a hash key is text, bytes or a number"):
        of_request(from_callable(lambda info: object()), None)  # type: ignore[arg-type,return-value]


def test_what_cannot_be_called() -> None:
    """Something else than a function is refused."""
    with pytest.raises(InvalidConfigError, match="hash_key is not callable: 'account'"):
        from_callable("account")  # type: ignore[arg-type]
