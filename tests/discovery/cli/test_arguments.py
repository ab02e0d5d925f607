"""What the command line and the environment say."""

import pytest

from discovery.cli.arguments import DEFAULT_ETCD, parse, prefix_or_service, service_name
from discovery.target import InvalidTargetError, parse_target


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ("ledger", "tallystick/ledger"),
        ("tallystick/ledger", "tallystick/ledger"),
        ("acme/eu/greeter", "acme/eu/greeter"),
        ("etcd:///greeter", "greeter"),
    ],
)
def test_a_service_is_named_as_a_target_is(text: str, service: str) -> None:
    """A short name is one of ours, a full one has a slash."""
    assert service == service_name(text)
    if "/" not in text or ":///" in text:
        assert parse_target(text).service == service


@pytest.mark.parametrize("text", ["", "/", "a//b", "a/", "/a", "static:///a:1", "x y", "a:1"])
def test_what_is_no_service_is_refused(text: str) -> None:
    """By the same rule."""
    with pytest.raises(InvalidTargetError):
        service_name(text)


@pytest.mark.parametrize(
    ("text", "read"),
    [("acme/", "acme/"), ("a/b/", "a/b/"), ("etcd:///acme/", "acme/"), ("x", "tallystick/x")],
)
def test_a_prefix_ends_in_a_slash(text: str, read: str) -> None:
    """Without one it is a service."""
    assert read == prefix_or_service(text)


@pytest.mark.parametrize("text", ["/", "//", "etcd:///", "a b/"])
def test_what_is_no_prefix_is_refused(text: str) -> None:
    """Nothing lists the whole store by accident."""
    with pytest.raises(InvalidTargetError):
        prefix_or_service(text)


def test_common_options_stand_before_the_command_and_after() -> None:
    """And the one nearest to the end counts."""
    before = parse(["--etcd", "a:1", "--json", "ls"], {})
    after = parse(["ls", "--etcd", "a:1", "--json"], {})
    both = parse(["--etcd", "b:1", "ls", "--etcd", "a:1", "--json"], {})
    assert before == after == both


@pytest.mark.parametrize(
    ("environ", "etcd"),
    [({}, DEFAULT_ETCD), ({"TALLYSTICK_ETCD": ""}, DEFAULT_ETCD), ({"TALLYSTICK_ETCD": "e"}, "e")],
)
def test_the_environment_names_etcd(environ: dict[str, str], etcd: str) -> None:
    """Unless the command line does."""
    assert etcd == parse(["ls"], environ).etcd
    assert "x:1" == parse(["ls", "--etcd", "x:1"], environ).etcd
