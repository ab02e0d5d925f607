"""What of a call decides where it goes, for the policies that hash.

    from_metadata("x-account")          the first value of a metadata key
    from_field("order.account_id")      a field of the request of a unary call
    from_callable(lambda info: ...)     whatever a function makes of the call

Each makes a `HashKey`: bytes, or None for a call that does not say. Text counts as its
UTF-8, integers as their decimal digits, so that one account has one key wherever it is
written. What is empty is no key: else all calls that lack it would meet at one endpoint.

What can be known to be wrong is refused when the key is made. What shows only with a call
must not fail it, since one channel carries many methods and not all have the field: it is
logged once for each message class, and those calls have no key.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from balancer.errors import InvalidConfigError, shown
from balancer.policy import HashKey, PickInfo, PolicyContext

MAX_MESSAGE_CLASSES: Final = 256
MAX_PATH_DEPTH: Final = 32

_METADATA_KEY = re.compile(r"[a-z0-9_.-]+")
_FIELD_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")

_log = logging.getLogger(__name__)

_Getter: TypeAlias = Callable[[Any], bytes | None]


def required_hash_key(context: PolicyContext, policy: str) -> HashKey:
    """The channel's hash key.

    Raises InvalidConfigError if it has none: a policy that hashes would choose blindly.
    """
    if context.hash_key is None:
        raise InvalidConfigError(f"hash_key is missing: policy {policy!r} needs one")
    return context.hash_key


def from_metadata(name: str) -> HashKey:
    """The first value under the metadata key `name`, in any case; binary if it is `-bin`.

    Raises InvalidConfigError unless it is a metadata key (gRPC over HTTP/2, Custom-Metadata).
    """
    wanted = name.lower()
    if not _METADATA_KEY.fullmatch(wanted):
        raise InvalidConfigError(f"hash_key is not the name of a metadata key: {shown(name)}")

    def first_value(info: PickInfo) -> bytes | None:
        for key, value in info.metadata:
            if key == wanted or key.lower() == wanted:
                return value.encode() if isinstance(value, str) else value
        return None

    return first_value


def from_field(path: str) -> HashKey:
    """The scalar field at `path`, names joined by dots, in the request of a unary call.

    None if the call streams its requests, and if the field is not set; one without presence
    counts as set when it is not its default. Where the request has no such field, or one
    that is no single scalar, that is logged once for the class, and the call has no key.

    Raises InvalidConfigError unless `path` is names joined by dots, at most MAX_PATH_DEPTH.
    """
    if not _FIELD_PATH.fullmatch(path) or path.count(".") >= MAX_PATH_DEPTH:
        raise InvalidConfigError(f"hash_key is not the path of a field: {shown(path)}")
    getters: dict[type, _Getter] = {}

    def value_at_path(info: PickInfo) -> bytes | None:
        request = info.request
        if request is None:
            return None
        getter = getters.get(type(request))
        if getter is None:
            if len(getters) >= MAX_MESSAGE_CLASSES:
                getters.clear()
            getter = getters[type(request)] = _getter(type(request), path)
        return getter(request)

    return value_at_path


def from_callable(function: Callable[[PickInfo], str | bytes | int | None]) -> HashKey:
    """What `function` says of the call; it runs on every call and must not block or raise.

    An answer of another type fails the call with TypeError.

    Raises InvalidConfigError if it cannot be called.
    """
    if not callable(function):
        raise InvalidConfigError(f"hash_key is not callable: {function!r}")

    def encoded(info: PickInfo) -> bytes | None:
        value = function(info)
        return None if value is None else _encode(value)

    return encoded


def _encode(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int | float):
        # A float is the shortest digits that give it back, the same on every machine.
        return repr(value).encode()
    raise TypeError(f"a hash key is text, bytes or a number, not {value!r}")


def _no_key(_request: object) -> None:
    return None


def _getter(message_class: type, path: str) -> _Getter:
    """What reads `path` from messages of that class."""
    try:
        field = _resolve(message_class, path)
    except LookupError as reason:
        _log.error("hash key %r: %s; such calls go to endpoints chosen at random", path, reason)
        return _no_key
    read = attrgetter(path)
    if not field.has_presence:
        return lambda request: _encode(value) if (value := read(request)) else None
    parent_path, _, name = path.rpartition(".")
    if not parent_path:
        return lambda request: _encode(read(request)) if request.HasField(name) else None
    parent = attrgetter(parent_path)
    return lambda request: _encode(read(request)) if parent(request).HasField(name) else None


def _resolve(message_class: type, path: str) -> FieldDescriptor:
    """The scalar field at `path`. Raises LookupError saying why there is none."""
    if not issubclass(message_class, Message):
        raise LookupError(f"{message_class.__name__} is no protobuf message")  # noqa: TRY004
    descriptor: Any = message_class.DESCRIPTOR
    *parents, last = path.split(".")
    for name in parents:
        descriptor = _field(descriptor, name).message_type
        if descriptor is None:
            raise LookupError(f"{name!r} is no message")
    field = _field(descriptor, last)
    if field.message_type is not None:
        raise LookupError(f"{last!r} is a message and not a scalar")
    return field


def _field(descriptor: Descriptor, name: str) -> FieldDescriptor:
    field = descriptor.fields_by_name.get(name)
    if field is None:
        raise LookupError(f"{descriptor.full_name} has no field {name!r}")
    if field.is_repeated:
        raise LookupError(f"{field.full_name} is repeated")
    return field
