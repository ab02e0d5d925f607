"""Reading untrusted JSON field by field, in the JSON form of protobuf.

What is asked for is checked and named in the error by its path; what nobody asks for is
ignored, as gRPC does, so that a newer document still loads. A null is a field left out. As in
gRPC's own parsers a number may also be written as a string, a key may stand only once, and
only the lowerCamelCase names count.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

import grpc

from balancer.errors import InvalidConfigError, shown

UINT32_MAX: Final = 2**32 - 1
MAX_DURATION_S: Final = 315_576_000_000
"""The longest google.protobuf.Duration, about 10,000 years."""

_DURATION: Final = re.compile(r"(?=[0-9.]*[0-9])([0-9]{0,12})(?:\.([0-9]{1,9}))?s")
_NUMBER: Final = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][-+]?[0-9]{1,3})?")
_CODES_BY_NUMBER: Final[dict[int, grpc.StatusCode]] = {
    code.value[0]: code for code in grpc.StatusCode
}


def parse_object(text: str | bytes, *, max_bytes: int, what: str) -> Fields:
    """The JSON object in `text`.

    Raises InvalidConfigError if it is not one, or if it is longer than `max_bytes`.
    """
    try:
        data = text.encode() if isinstance(text, str) else text
        readable = data.decode()
    except UnicodeError as error:
        raise InvalidConfigError(f"{what} is not UTF-8: {error}") from error
    if len(data) > max_bytes:
        raise InvalidConfigError(f"{what} is longer than {max_bytes} bytes")
    try:
        value = json.loads(
            readable, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
        )
    except InvalidConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidConfigError(f"{what} is not JSON: {error}") from error
    return Fields(value, what)


class Fields:
    """One JSON object; `path` says where it stands. Readers raise InvalidConfigError."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise InvalidConfigError(f"{path} is not an object")
        self.path = path
        self._values: dict[str, Any] = {k: v for k, v in value.items() if v is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def names(self) -> tuple[str, ...]:
        """The fields that are set."""
        return tuple(self._values)

    def values(self) -> dict[str, Any]:
        """The fields that are set, unchecked."""
        return dict(self._values)

    def error(self, name: str, problem: str) -> InvalidConfigError:
        """What is wrong with a field."""
        return InvalidConfigError(f"{self.path}.{name} {problem}")

    def required(self, name: str) -> None:
        """Insists on a field."""
        if name not in self._values:
            raise self.error(name, "is missing")

    def text(self, name: str) -> str | None:
        """A string."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.error(name, "is not a string")
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            # Half of a surrogate pair, which JSON can write and nobody can send.
            raise self.error(name, "is not text that UTF-8 can hold") from None
        return value

    def boolean(self, name: str) -> bool | None:
        """True or false."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, "is not true or false")
        return value

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self._values.get(name)
        if value is None:
            return None
        result = math.nan
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            result = float(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            result = _as_float(value)
        if not math.isfinite(result):
            raise self.error(name, "is not a number")
        return result

    def whole(self, name: str, *, least: int = 0, most: int = UINT32_MAX) -> int | None:
        """An integer within bounds."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, "is not a whole number")
        if not least <= value <= most:
            raise self.error(name, f"is not within {least} to {most}")
        return value

    def duration_s(self, name: str) -> float | None:
        """Seconds, written as "1.5s"."""
        value = self._values.get(name)
        if value is None:
            return None
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise self.error(name, 'is not a duration like "1.5s"')
        seconds = float(f"{match[1] or 0}.{match[2] or 0}")
        if seconds > MAX_DURATION_S:
            raise self.error(name, f"is longer than {MAX_DURATION_S} s")
        return seconds

    def codes(self, name: str) -> frozenset[grpc.StatusCode]:
        """Status codes by name or number; OK is not among them."""
        found = frozenset(self._code(name, each) for each in self._list(name))
        if grpc.StatusCode.OK in found:
            raise self.error(name, "has OK in it")
        return found

    def child(self, name: str) -> Fields | None:
        """An object within."""
        value = self._values.get(name)
        return None if value is None else Fields(value, f"{self.path}.{name}")

    def required_child(self, name: str) -> Fields:
        """An object within that has to be there."""
        return Fields(self._values.get(name), f"{self.path}.{name}")

    def children(self, name: str) -> Iterator[Fields]:
        """The objects of a list; none if it is not set."""
        for index, value in enumerate(self._list(name)):
            yield Fields(value, f"{self.path}.{name}[{index}]")

    def _list(self, name: str) -> list[Any]:
        value = self._values.get(name, [])
        if not isinstance(value, list):
            raise self.error(name, "is not a list")
        return value

    def _code(self, name: str, value: object) -> grpc.StatusCode:
        code: grpc.StatusCode | None = None
        if isinstance(value, str):
            code = grpc.StatusCode.__members__.get(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            code = _CODES_BY_NUMBER.get(value)
        if code is None:
            raise self.error(name, f"has an unknown status code: {shown(value)}")
        return code


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in result if names.count(name) > 1)
        raise InvalidConfigError(f"the key {shown(repeated)} stands twice in one object")
    return result


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")
