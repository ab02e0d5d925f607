"""Values of which millions are made: dataclasses that nobody changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """A dataclass that is frozen as far as the type checker is concerned.

    What guards a frozen one while the program runs takes two thirds of the time of making
    it: 0.7 us instead of 0.25.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
