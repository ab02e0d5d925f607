"""How a command ends, other than well. Each becomes one line on stderr and its exit code.

CommandError
  UsageError          2, what was asked for makes no sense
  FailedError         1, not there, or refused
  UnreachableError    3, no member of etcd answered: nothing is known
"""

from __future__ import annotations

from typing import ClassVar, Final

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
# As a shell reports what ended by SIGINT and by SIGPIPE.
INTERRUPTED: Final = 130
READER_LEFT: Final = 141


class CommandError(Exception):
    """The command did not do what it was asked."""

    exit_code: ClassVar[int] = FAILED


class UsageError(CommandError):
    """The command line makes no sense."""

    exit_code = USAGE


class FailedError(CommandError):
    """What was asked for is not there, or was refused."""


class UnreachableError(CommandError):
    """No member of etcd answered in time."""

    exit_code = UNREACHABLE
