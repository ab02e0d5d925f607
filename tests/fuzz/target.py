"""What is fuzzed: one decoder, what it may refuse, and what has to be true of what it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)

# Whoever logs a refusal, or shows it to a caller, has a limit for it.
REFUSAL_CHARS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder under a name.

    `run` decodes what it is given and asserts what has to be true of the result. It may raise
    one of `refusals`, and of these no subclass that is not named: a UnicodeDecodeError is a
    ValueError and says nothing to anybody. `seeds` are inputs that are taken, or once were
    wrongly; `words` are worth trying anywhere in an input.
    """

    name: str
    run: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()

    def check(self, data: bytes) -> None:
        """Raises whatever `data` shows to be wrong."""
        try:
            self.run(data)
        except self.refusals as refusal:
            if type(refusal) not in self.refusals:
                raise
            check_shown(str(refusal))


def check_shown(text: str) -> None:
    """A text that leaves the program: not endless, on one line, and there is no byte to fail on."""
    assert len(text) <= REFUSAL_CHARS_MAX, f"{len(text)} characters: {text[:200]!r}"
    assert text.isprintable(), f"not printable: {text[:200]!r}"


def message_in(message_type: type[M], raw: bytes) -> M | None:
    """The message in `raw`, if it is one: whether it is protobuf says, and it is not ours."""
    try:
        return message_type.FromString(raw)
    except DecodeError:
        return None


class Feed:
    """Takes an input apart, for a target that needs more than its bytes. Never runs dry."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        """From 0, of one byte or, where `below` is larger, of eight."""
        size = 1 if below <= 256 else 8
        return int.from_bytes(self._take(size), "big") % below

    def some(self, most: int) -> bytes:
        """Up to `most` bytes, at most 255 of them."""
        return self._take(self.number(min(most, 255) + 1))

    def rest(self) -> bytes:
        """All that is left."""
        return self._take(len(self._data))

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken
