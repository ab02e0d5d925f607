import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.target import InvalidTargetError, Target, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("ledger", Target("etcd", service="tallystick/ledger")),
        ("etcd:///tallystick/ledger", Target("etcd", service="tallystick/ledger")),
        ("etcd:///other", Target("etcd", service="other")),
        ("static:///a:1", Target("static", addresses=("a:1",))),
        ("static:///b:2,[::1]:1", Target("static", addresses=("b:2", "[::1]:1"))),
    ],
)
def test_a_target_is_read(text: str, target: Target) -> None:
    """Each of the three forms says whom to call."""
    assert target == parse_target(text)


@pytest.mark.parametrize("text", ["ledger", "etcd:///a/b", "static:///b:2,a:1"])
def test_the_full_form_reads_back(text: str) -> None:
    """str() of a target is a target."""
    assert parse_target(text) == parse_target(str(parse_target(text)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "etcd:///",
        "etcd:///a/",
        "etcd:///a//b",
        "etcd://host/a",
        "etcd:a",
        "static:///",
        "static:///a",
        "static:///a:1,",
        "static:///a:1,,b:2",
        "static:///a:99999",
        "static:///unix:/x",
        "dns:///a:1",
        "ETCD:///a",
        "localhost:50051",
        "a/b",
        "a b",
        "static:///" + ",".join(["a:1"] * 2000),
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    """What names nobody raises the named ValueError, with the text in it."""
    with pytest.raises(InvalidTargetError) as caught:
        parse_target(text)

    assert isinstance(caught.value, ValueError)


@given(st.text())
def test_any_text_is_a_target_or_refused(text: str) -> None:
    """No text raises anything but the named error."""
    with contextlib.suppress(InvalidTargetError):
        assert isinstance(parse_target(text), Target)
