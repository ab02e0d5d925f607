"""What docs/discovery.md says of the command line and of the format is so."""

import argparse
import dataclasses
import re

import pytest

from discovery import Endpoint, ResolverState, decode_key, decode_value, encode_key, encode_value
from discovery.cli import errors
from discovery.cli.arguments import parse
from discovery.cli.changes import SIGNS
from discovery.variables import PASSWORD_VARIABLE
from tests.docs.pages import ROOT, quoted, rows

PAGE = ROOT / "docs" / "discovery.md"
TEXT = PAGE.read_text(encoding="utf-8")


def _tables() -> list[list[list[str]]]:
    """All tables of the page, each as the cells of its rows, heading first."""
    found = re.findall(r"((?:^\|.*\n)+)", TEXT, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for table in found
    ]


def _table(heading: str) -> list[list[str]]:
    """The rows below a table's heading."""
    (table,) = [each for each in _tables() if each[0][0] == heading]
    return table[2:]


def test_the_format_is_written_and_read_as_shown() -> None:
    """The key and the value on the page are what the code writes, to the byte."""
    key, value = re.findall(r"^```\n(tallystick/\S+)\n(\{.*\})\n```$", TEXT, re.MULTILINE)[0]
    endpoint = Endpoint("10.0.0.7:50051", zone="a")
    assert value.encode() == encode_value(endpoint)
    assert key.encode() == encode_key("tallystick/ledger", endpoint)
    assert endpoint == decode_value(value.encode())
    assert ("tallystick/ledger", "10.0.0.7:50051") == decode_key(key.encode())


def test_a_state_has_the_fields_that_are_listed() -> None:
    """All of them."""
    listed = {quoted(row[0])[0] for row in rows(PAGE, "Watch")}
    assert {field.name for field in dataclasses.fields(ResolverState)} == listed


def test_the_signs_of_a_watch_are_those_of_the_code() -> None:
    """Each event, and its sign."""
    listed = {quoted(row[1])[0]: quoted(row[0])[0] for row in _table("sign")}
    assert {kind.value: sign for kind, sign in SIGNS.items()} == listed


def test_the_exit_codes_are_those_of_the_code() -> None:
    """None is missing."""
    listed = {int(code) for row in _table("exit code") for code in row[0].split(",")}
    assert {value for name, value in vars(errors).items() if name.isupper()} == listed


@pytest.mark.parametrize("row", _table("command"), ids=lambda row: quoted(row[0])[0])
def test_the_commands_are_taken(row: list[str]) -> None:
    """With the arguments and options that the page names."""
    command, *arguments = quoted(row[0])[0].split()
    options = " ".join(each for each in quoted(row[1]) if each.startswith("--")).split()
    given = [{"SERVICE": "ledger", "ADDRESS": "a:1"}[each] for each in arguments]
    for option in options:
        given += [option] if option == "--undo" else [option, "2"]
    assert command == parse([command, *given], {}).command


def test_the_common_options_are_taken() -> None:
    """Those of the section on the way to etcd."""
    section = TEXT.partition("## The way to etcd")[2].partition("\n## ")[0]
    section = re.sub(r"^```.*?^```$", "", section, flags=re.MULTILINE | re.DOTALL)
    options = {each for each in quoted(section) if each.startswith("--")}
    assert {"--etcd", "--ca", "--cert", "--key", "--user", "--password-file"} == options
    assert PASSWORD_VARIABLE in quoted(section)
    given = [part for option in sorted(options) for part in (option, "x")]
    assert isinstance(parse(["ls", *given], {}), argparse.Namespace)
