"""The reference of the configuration is what the code says."""

from __future__ import annotations

import dataclasses

import pytest

from docs import configuration
from docs.configuration import PAGE, rendered


def test_the_page_is_as_the_code_is() -> None:
    """A default, a field or a variable that has changed is written down anew: `make docs`."""
    assert rendered() == PAGE.read_text(encoding="utf-8")


def test_a_variable_that_nobody_describes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a new one says what it means."""
    monkeypatch.delitem(configuration.VARIABLES, "TALLYSTICK_LOG")
    with pytest.raises(ValueError, match="TALLYSTICK_LOG"):
        rendered()


def test_a_field_without_a_meaning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a comment nor a sentence of the docstring says what it is."""

    @dataclasses.dataclass
    class ThingConfig:
        """Limits of a thing, of which `told_s` is one."""

        told_s: float = 1.0
        # One with a comment.
        commented: int = 2
        documented: bool = True
        """One with a docstring."""
        silent: int = 3

    fields = configuration._fields(ThingConfig)
    assert [
        ("told_s", "1.0", "seconds", "Limits of a thing, of which `told_s` is one."),
        ("commented", "2", "", "One with a comment."),
        ("documented", "yes", "", "One with a docstring."),
    ] == [next(fields) for _ in range(3)]
    with pytest.raises(ValueError, match=r"ThingConfig\.silent"):
        next(fields)
