"""Messages that anybody could send: every field of a type with some value, right or wrong."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

FIELD_IS_SET = 0.8
DEPTH_MAX = 4
REPEATED_MAX = 3
TEXTS = (
    "", "a", "EUR", "ledger", "order", "coordinator", "0" * 32, "user:a", "1", "a/b", "a b", "a\n",
    "\0", "\u202e\U0001f4a5", "n" * 64, "n" * 65, "n" * 5000, "%", "' OR 1=1 --",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 7, 100, 10**6, 10**14, 10**14 + 1, 2**31 - 1)
LARGE = (2**63 - 1, -(2**63))
_F = FieldDescriptor
_TEXT = frozenset({_F.TYPE_STRING, _F.TYPE_BYTES})
_UNSIGNED = frozenset({_F.TYPE_UINT32, _F.TYPE_UINT64, _F.TYPE_FIXED32, _F.TYPE_FIXED64})
_WIDE = frozenset({_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64})


def any_message(kind: type[Message], rng: random.Random) -> Message:
    """One of that type, with values that a rule may take or refuse."""
    message = kind()
    _fill(message, message.DESCRIPTOR, rng, DEPTH_MAX)
    return message


def _fill(message: Any, descriptor: Any, rng: random.Random, depth: int) -> None:
    for field in descriptor.fields:
        if rng.random() > FIELD_IS_SET:
            continue
        if field.message_type is not None:
            if depth:
                for inner in _inner(message, field, rng):
                    _fill(inner, field.message_type, rng, depth - 1)
        elif field.is_repeated:
            values = [_value(field, rng) for _ in range(rng.randrange(REPEATED_MAX))]
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, _value(field, rng))


def _inner(message: Any, field: FieldDescriptor, rng: random.Random) -> list[Any]:
    place = getattr(message, field.name)
    if field.is_repeated:
        return [place.add() for _ in range(rng.randrange(REPEATED_MAX))]
    place.SetInParent()
    return [place]


def _value(field: FieldDescriptor, rng: random.Random) -> Any:
    if field.type in _TEXT:
        text = rng.choice(TEXTS)
        return text.encode() if field.type == _F.TYPE_BYTES else text
    if field.type == _F.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == _F.TYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 99))
    if field.type in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return rng.choice((0.0, -1.5, float("inf"), float("nan")))
    number = rng.choice((*NUMBERS[:6], *NUMBERS, *(LARGE if field.type in _WIDE else ())))
    if field.type in _UNSIGNED or field.type in _WIDE:
        return number
    return min(number, 2**31 - 1) * rng.choice((1, 1, -1))
