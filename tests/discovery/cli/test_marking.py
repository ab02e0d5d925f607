"""How `drain` changes a value that is somebody else's."""

import json
from dataclasses import replace
from typing import Any

import pytest

from discovery import Endpoint, MalformedEndpointError, decode_value, encode_value
from discovery.cli.marking import marked
from discovery.endpoint import MAX_VALUE_BYTES


def _value(**fields: Any) -> bytes:
    return json.dumps({"Op": 0, "Addr": "a:1", **fields}).encode()


def test_our_own_value_is_marked_and_unmarked() -> None:
    """Draining changes, and nothing else; back again, it is as it was."""
    endpoint = Endpoint("a:1", id="x", zone="z", weight=3, services=("s.A",))
    value = encode_value(endpoint)
    drained = marked(value, draining=True)
    assert replace(endpoint, draining=True) == decode_value(drained)
    assert value == marked(drained, draining=False)


@pytest.mark.parametrize("draining", [True, False])
def test_what_is_so_already_stays_as_it_is(draining: bool) -> None:
    """To the byte, whatever its form."""
    value = _value(Metadata={"draining": draining})
    assert value is marked(value, draining=draining)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"k": [1]}, {"k": [1], "draining": True}),
        ('{"k":1}', '{"k":1,"draining":true}'),
        ("", '{"draining":true}'),
        (None, '{"draining":true}'),
    ],
)
def test_other_peoples_metadata_stays_in_its_form(metadata: Any, expected: Any) -> None:
    """An object stays an object, a string a string; fields that we do not know stay."""
    update = json.loads(marked(_value(Metadata=metadata, Extra=7), draining=True))
    assert {"Op": 0, "Addr": "a:1", "Metadata": expected, "Extra": 7} == update


def test_metadata_under_a_name_that_go_would_take_stays_there() -> None:
    """Where it is written in small letters the mark goes there, and nothing hides the rest."""
    value = b'{"addr":"a:1","metadata":{"id":"x"}}'
    drained = marked(value, draining=True)
    assert Endpoint("a:1", id="x", draining=True) == decode_value(drained)
    assert {"addr", "metadata"} == json.loads(drained).keys()


def test_a_value_without_metadata_gets_some() -> None:
    """As a string, which every reader takes."""
    assert '{"draining":true}' == json.loads(marked(_value(), draining=True))["Metadata"]


@pytest.mark.parametrize(
    "value",
    [
        b"not JSON",
        _value(Metadata="version 7"),
        _value(Metadata="[1]"),
        _value(Metadata='{"k":' + "[" * 5000 + "]" * 5000 + "}"),
        _value(Metadata=["x"]),
        _value(Metadata=7),
        _value(Metadata="x" * MAX_VALUE_BYTES),
        _value(Metadata={"k": "x" * (MAX_VALUE_BYTES - 55)}),
    ],
)
def test_what_has_no_room_for_the_mark_is_refused(value: bytes) -> None:
    """Rather than lose what its owner wrote."""
    with pytest.raises(MalformedEndpointError):
        marked(value, draining=True)
