"""The messages of grpc.health.v1, compared with protobuf's own."""

from __future__ import annotations

import contextlib

import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from balancer.health_wire import (
    REPLY_BYTES_MAX,
    WATCH_METHOD,
    MalformedReplyError,
    ServingStatus,
    decode_response,
    encode_request,
)

_ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)


@given(_ANY_TEXT)
def test_requests_are_those_of_protobuf(service: str) -> None:
    """Whatever the service is called, the bytes are the ones that protobuf writes."""
    assert health_pb2.HealthCheckRequest(service=service).SerializeToString() == encode_request(
        service
    )


@pytest.mark.parametrize("status", ServingStatus)
def test_replies_are_those_of_protobuf(status: ServingStatus) -> None:
    """Every status that protobuf writes is read, and it has the same name there."""
    reply = health_pb2.HealthCheckResponse(status=status.value)
    assert status is decode_response(reply.SerializeToString())
    assert status.name == health_pb2.HealthCheckResponse.ServingStatus.Name(status.value)


def test_the_method_is_the_one_of_the_service() -> None:
    """The path is the descriptor's."""
    service = health_pb2.DESCRIPTOR.services_by_name["Health"]
    assert f"/{service.full_name}/{service.methods_by_name['Watch'].name}" == WATCH_METHOD


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"", ServingStatus.UNKNOWN),
        (b"\x08\x09", ServingStatus.UNKNOWN),
        (b"\x08" + b"\xff" * 9 + b"\x01", ServingStatus.UNKNOWN),
        (b"\x08\x02\x08\x01", ServingStatus.SERVING),
        (b"\x12\x03abc\x08\x01", ServingStatus.SERVING),
        (b"\x18\x96\x01\x08\x01", ServingStatus.SERVING),
        (b"\x1d\x00\x00\x00\x00\x08\x01", ServingStatus.SERVING),
        (b"\x19" + bytes(8) + b"\x08\x01", ServingStatus.SERVING),
        (b"\x0a\x01a\x08\x01", ServingStatus.SERVING),
    ],
)
def test_what_a_later_version_may_send(reply: bytes, expected: ServingStatus) -> None:
    """Unknown fields and numbers are borne, the last status counts."""
    assert expected is decode_response(reply)


@pytest.mark.parametrize(
    "reply",
    [
        b"\x08",
        b"\x08\x80",
        b"\x08" + b"\x80" * 10 + b"\x01",
        b"\x00\x01",
        b"\x0b",
        b"\x0f",
        b"\xe2\xbf\xff\xf9\x33\x00",
        b"\x88\x80\x80\x80\x80\x00\x01",
        b"\x12\x7f",
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x19\x00",
        b"HTTP/1.1 200 OK",
        bytes(REPLY_BYTES_MAX + 1),
        b"\x08\x01" * REPLY_BYTES_MAX,
    ],
)
def test_what_is_no_reply_is_refused(reply: bytes) -> None:
    """Cut off, endless, of no known form or too long: an error, not a guess."""
    with pytest.raises(MalformedReplyError):
        decode_response(reply)


@given(st.binary(max_size=40))
def test_nothing_but_refusal_comes_of_garbage(reply: bytes) -> None:
    """Any bytes give a status, which is then also the one protobuf reads, or a refusal."""
    with contextlib.suppress(MalformedReplyError):
        status = decode_response(reply)
        read = health_pb2.HealthCheckResponse.FromString(reply).status
        known = read in set(ServingStatus)
        assert (ServingStatus(read) if known else ServingStatus.UNKNOWN) is status
