"""What `python -m discovery` reads, and what it shows of what others wrote."""

from __future__ import annotations

import argparse
import io
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from discovery.cli import arguments
from discovery.cli.connection import Connection, _password
from discovery.cli.errors import UsageError
from discovery.cli.marking import marked
from discovery.cli.text import printable, shown_key, table
from discovery.endpoint import MalformedEndpointError, decode_value
from tests.fuzz.discovery_targets import ENDPOINT_WORDS, VALUE, VALUE_OF_OBJECT, text_of
from tests.fuzz.target import Target, check_shown


def _marked(data: bytes) -> None:
    was = decode_value(data)
    for draining in (True, False):
        now = marked(data, draining=draining)
        assert replace(was, draining=draining) == decode_value(now)
        assert now == marked(now, draining=draining)


def _command_line(data: bytes) -> None:
    words = [text_of(each) for each in data.split(b"\0")]
    try:
        with redirect_stdout(io.StringIO()):
            options = arguments.parse(words, {})
        Connection(options)
    except SystemExit:
        # --help was printed.
        return
    except UsageError as error:
        # The console escapes whatever goes through it.
        check_shown(printable(str(error)))


def _password_file(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        try:
            password = _password(argparse.Namespace(password_file=Path(file.name)))
        except UsageError as error:
            check_shown(printable(str(error)))
        else:
            assert "\n" not in password


def _shown(data: bytes) -> None:
    text = text_of(data)
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    for line in table(("a", "b"), [(text, shown_key(data)), ("", text[:3])]):
        assert line.isprintable()


TARGETS = (
    Target(
        "draining-mark",
        _marked,
        (MalformedEndpointError,),
        (VALUE, VALUE_OF_OBJECT, b'{"Addr":"a:1"}', b'{"Addr":"a:1","Metadata":"x"}'),
        ENDPOINT_WORDS,
    ),
    Target(
        "command-line",
        _command_line,
        (),
        (
            b"ls",
            b"ls\0acme/",
            b"watch\0ledger\0--json",
            b"drain\0ledger\0a:1\0--undo",
            b"register\0ledger\0a:1\0--weight\x002\0--ttl\x005\0--etcd\0a:1",
            b"--help",
        ),
        (b"--timeout", b"--user", b"--cert", b"--key", b"1e9", b"nan", b"\0", b"--ca", b"="),
    ),
    Target("password-file", _password_file, (), (b"secret\r\nmore", b"", b"\xff")),
    Target("shown", _shown, (), (b"a\x1b[31m", b"\xff", "‮".encode())),
)
