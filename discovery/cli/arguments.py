"""What was asked for on the command line and in the environment.

A password is never an argument: arguments are in everybody's process list.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from discovery.cli.errors import UsageError
from discovery.endpoint import Endpoint, NamingError
from discovery.target import InvalidTargetError, parse_target
from discovery.variables import (
    CA_VARIABLE,
    CERT_VARIABLE,
    ETCD_VARIABLE,
    KEY_VARIABLE,
    PASSWORD_VARIABLE,
    USER_VARIABLE,
)

DEFAULT_ETCD: Final = "127.0.0.1:2379"
DEFAULT_TIMEOUT_S: Final = 5.0
_SCHEME = "etcd:///"
_EPILOG = """\
A service is named as a target is: `ledger` is short for tallystick/ledger, a full name
has a slash (acme/greeter), and etcd:///NAME takes any.

exit codes: 0 done; 1 not there, or refused; 2 usage; 3 etcd does not answer;
130 interrupted; 141 the reader of the output left
"""


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """Reads the command line. Raises UsageError; SystemExit after --help."""
    options = _parser().parse_args(argv, argparse.Namespace(**_defaults(environ)))
    if (options.cert is None) != (options.key is None):
        raise UsageError("--cert and --key go together")
    if options.user and not (options.password or options.password_file):
        raise UsageError(f"--user needs a password: {PASSWORD_VARIABLE} or --password-file")
    return options


def service_name(text: str) -> str:
    """The registry's name of a service, by the rule of `discovery.target`.

    Raises InvalidTargetError.
    """
    full = "/" in text and ":///" not in text
    target = parse_target(f"{_SCHEME}{text}" if full else text)
    if target.scheme != "etcd":
        raise InvalidTargetError(f"{text[:200]!r} is not in the registry")
    return target.service


def prefix_or_service(text: str) -> str:
    """A service's name; or, ending in a slash, what names begin with.

    Raises InvalidTargetError.
    """
    if not text.endswith("/"):
        return service_name(text)
    return parse_target(f"{_SCHEME}{text.removeprefix(_SCHEME)[:-1]}").service + "/"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m discovery",
        description="Look at the registry in etcd, and write to it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_common(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_ls(_command(commands, "ls", "list services, or the endpoints of one"))
    _add_watch(_command(commands, "watch", "show a service's endpoints and each change"))
    _add_register(_command(commands, "register", "keep an endpoint registered until stopped"))
    _add_drain(_command(commands, "drain", "mark another process's endpoint as draining"))
    return parser


def _command(commands: Any, name: str, purpose: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", allow_abbrev=False
    )
    _add_common(parser)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Adds what may stand before the command and after it."""
    group = parser.add_argument_group("common options")

    def add(flag: str, **how: Any) -> None:
        # Suppressed, so that a command's silence does not undo what stood before it.
        group.add_argument(flag, default=argparse.SUPPRESS, **how)

    add("--json", action="store_true", help="one JSON object a line")
    add(
        "--etcd",
        metavar="HOST:PORT,...",
        help=f"members of etcd; else ${ETCD_VARIABLE}, else {DEFAULT_ETCD}; https:// encrypts",
    )
    add("--ca", type=Path, metavar="PEM", help=f"whom to trust, and encrypt (${CA_VARIABLE})")
    add("--cert", type=Path, metavar="PEM", help=f"our certificate, with --key (${CERT_VARIABLE})")
    add("--key", type=Path, metavar="PEM", help=f"the key of --cert (${KEY_VARIABLE})")
    add("--user", metavar="NAME", help=f"sign in, with the password in ${PASSWORD_VARIABLE}")
    add("--password-file", type=Path, metavar="FILE", help="or in its first line")
    add(
        "--timeout",
        type=_seconds,
        metavar="S",
        help=f"wait this long for etcd ({DEFAULT_TIMEOUT_S:g})",
    )


def _add_ls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "service",
        nargs="?",
        default="tallystick/",
        type=_checked(prefix_or_service),
        metavar="SERVICE|PREFIX/",
        help="its endpoints; or the services below PREFIX/ (tallystick/)",
    )


def _add_watch(parser: argparse.ArgumentParser) -> None:
    _add_service(parser)


def _add_register(parser: argparse.ArgumentParser) -> None:
    _add_service(parser)
    _add_address(parser)
    parser.add_argument("--id", default="", help="a name for people")
    parser.add_argument("--zone", default="", help="where it runs")
    parser.add_argument("--weight", default=1, type=int, help="relative to the others (1)")
    parser.add_argument("--version", default="", help="of the program that serves")
    parser.add_argument(
        "--ttl", default=10.0, type=_seconds, metavar="S", help="how long it outlives us (10)"
    )


def _add_drain(parser: argparse.ArgumentParser) -> None:
    _add_service(parser)
    _add_address(parser)
    parser.add_argument("--undo", action="store_true", help="it takes new work again")


def _add_service(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", type=_checked(service_name), metavar="SERVICE")


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", type=_checked(_address), metavar="ADDRESS", help="host:port")


def _checked(read: Any) -> Any:
    def checked(text: str) -> Any:
        try:
            return read(text)
        except NamingError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _address(text: str) -> str:
    return Endpoint(text).address


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:200]!r} is not a number of seconds")
    return seconds


def _defaults(environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        "json": False,
        "etcd": environ.get(ETCD_VARIABLE) or DEFAULT_ETCD,
        "ca": _path(environ.get(CA_VARIABLE)),
        "cert": _path(environ.get(CERT_VARIABLE)),
        "key": _path(environ.get(KEY_VARIABLE)),
        "user": environ.get(USER_VARIABLE, ""),
        "password": environ.get(PASSWORD_VARIABLE, ""),
        "password_file": None,
        "timeout": DEFAULT_TIMEOUT_S,
    }


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
