"""Which settings hold for a method."""

from __future__ import annotations

from typing import Any

import pytest

from balancer.errors import InvalidConfigError
from balancer.hedging import HedgingPolicy
from balancer.method_config import DEFAULT_METHOD, MAX_METHOD_NAMES, MethodConfig, MethodConfigs
from balancer.retry import RetryPolicy

HEDGING = HedgingPolicy(hedging_delay_s=0.1)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"max_request_bytes": -1}, "max_request_bytes"),
        ({"max_response_bytes": -1}, "max_response_bytes"),
        ({"hedging": HEDGING}, "idempotent"),
        (
            {"hedging": HEDGING, "idempotent": True, "retry": RetryPolicy(max_attempts=2)},
            "retry and hedging",
        ),
    ],
    ids=str,
)
def test_impossible_settings(wrong: dict[str, Any], expected: str) -> None:
    """What cannot be is refused by name."""
    with pytest.raises(InvalidConfigError, match=expected):
        MethodConfig(**wrong)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/pkg.Service/Method", 1.0),
        ("/pkg.Service/Other", 2.0),
        ("/pkg.Service2/Method", 3.0),
        ("/Service/Method", 3.0),
        ("nonsense", 3.0),
        ("", 3.0),
    ],
)
def test_the_most_specific_name_wins(path: str, expected: float) -> None:
    """A method's own entry, else its service's, else the one for all."""
    configs = MethodConfigs(
        {
            "/pkg.Service/Method": MethodConfig(timeout_s=1.0),
            "pkg.Service": MethodConfig(timeout_s=2.0),
            "": MethodConfig(timeout_s=3.0),
        }
    )
    assert expected == configs.of(path).timeout_s


def test_entries_are_not_merged() -> None:
    """What the specific entry does not say is not taken from the general one."""
    configs = MethodConfigs(
        {
            "/pkg.Service/Method": MethodConfig(timeout_s=1.0),
            "pkg.Service": MethodConfig(idempotent=True),
        }
    )
    assert not configs.of("/pkg.Service/Method").idempotent


def test_without_an_entry_the_defaults_hold() -> None:
    """A method that nobody names is not idempotent, not hedged and not limited."""
    assert DEFAULT_METHOD is MethodConfigs().of("/pkg.Service/Method")
    assert MethodConfig() == DEFAULT_METHOD


@pytest.mark.parametrize("name", ["/", "/Method", "/pkg.Service/", "//Method", "pkg.Service/"])
def test_impossible_names(name: str) -> None:
    """A name that no call can have is refused."""
    with pytest.raises(InvalidConfigError, match="not a method"):
        MethodConfigs({name: DEFAULT_METHOD})


def test_names_are_bounded() -> None:
    """There cannot be names without end."""
    names = {f"pkg.Service{index}": DEFAULT_METHOD for index in range(MAX_METHOD_NAMES + 1)}
    with pytest.raises(InvalidConfigError, match=str(MAX_METHOD_NAMES)):
        MethodConfigs(names)


def test_entries_are_a_snapshot() -> None:
    """What becomes of the mapping it was made from does not matter."""
    given = {"pkg.Service": MethodConfig(timeout_s=1.0)}
    configs = MethodConfigs(given)
    given.clear()
    assert 1.0 == configs.of("/pkg.Service/Method").timeout_s


@pytest.mark.parametrize(
    ("configured", "asked", "expected"),
    [
        (None, None, None),
        (None, 3.0, 3.0),
        (2.0, None, 2.0),
        (2.0, 3.0, 2.0),
        (2.0, 1.0, 1.0),
        (2.0, 0.0, 0.0),
    ],
)
def test_the_shorter_timeout_holds(
    configured: float | None, asked: float | None, expected: float | None
) -> None:
    """A caller may ask for less time than is configured, not for more."""
    assert expected == MethodConfig(timeout_s=configured).timeout_for(asked)
