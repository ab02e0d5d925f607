"""The two messages of grpc.health.v1, read and written by hand.

One field each: not worth stubs at run time, which would tie this package to the version
of protobuf that made them (grpc/doc/health-checking.md; the wire format is
https://protobuf.dev/programming-guides/encoding/). A reply comes from a server that may be
broken or hostile, so what is not such a message is refused, never guessed at.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

WATCH_METHOD: Final = "/grpc.health.v1.Health/Watch"
# Two bytes say it all; the rest is room for fields that are added one day.
REPLY_BYTES_MAX: Final = 1024

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX = 10
_TAG_BYTES_MAX = 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_FIELD = 1
_SERVICE_TAG = bytes([_FIELD << 3 | _LENGTH_DELIMITED])
_UINT32 = 0xFFFFFFFF


class ServingStatus(IntEnum):
    """grpc.health.v1.HealthCheckResponse.ServingStatus."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class MalformedReplyError(ValueError):
    """Not a HealthCheckResponse."""


def encode_request(service: str) -> bytes:
    """HealthCheckRequest{service}. Raises UnicodeEncodeError."""
    name = service.encode()
    return _SERVICE_TAG + _varint(len(name)) + name if name else b""


def decode_response(reply: bytes) -> ServingStatus:
    """The status in a HealthCheckResponse; UNKNOWN for a number that has no name here.

    Fields that are not known are skipped, and the last of several statuses counts, as
    protobuf rules. Raises MalformedReplyError.
    """
    if len(reply) > REPLY_BYTES_MAX:
        raise MalformedReplyError(f"{len(reply)} bytes are more than {REPLY_BYTES_MAX}")
    status, position = 0, 0
    while position < len(reply):
        tag, position = _read_varint(reply, position, _TAG_BYTES_MAX)
        if tag > _UINT32:
            raise MalformedReplyError(f"no field has the tag {tag}")
        field, wire_type = tag >> 3, tag & 7
        if field == 0:
            raise MalformedReplyError("a field has the number 0")
        if field == _FIELD and wire_type == _VARINT:
            # An enum is an int32: what is above 32 bits is cut off.
            value, position = _read_varint(reply, position)
            status = value & _UINT32
        else:
            position = _skip(reply, position, wire_type)
    return ServingStatus(status) if status in _STATUSES else ServingStatus.UNKNOWN


_STATUSES = frozenset(ServingStatus)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(data: bytes, position: int, bytes_max: int = _VARINT_BYTES_MAX) -> tuple[int, int]:
    """The number that begins there, and where the next thing does."""
    value = 0
    for index, byte in enumerate(data[position : position + bytes_max]):
        value |= (byte & 0x7F) << 7 * index
        if byte <= 0x7F:
            return value, position + index + 1
    raise MalformedReplyError("a number does not end")


def _skip(data: bytes, position: int, wire_type: int) -> int:
    """Where the value that begins there has ended."""
    if wire_type == _VARINT:
        return _read_varint(data, position)[1]
    if wire_type == _LENGTH_DELIMITED:
        size, position = _read_varint(data, position)
    elif wire_type in _FIXED_SIZES:
        size = _FIXED_SIZES[wire_type]
    else:
        raise MalformedReplyError(f"no wire type {wire_type}")
    if position + size > len(data):
        raise MalformedReplyError("a field is cut off")
    return position + size
