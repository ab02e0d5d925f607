"""What can keep a backup from being taken or restored; each is told in one line.

BackupError
├── NothingToBackUp   there are no books
├── NotTaken          a store could not be read, or a copy not be written
├── NotRestored       a store could not be written
├── NotABackup        there is no manifest, or none that can be read
├── Damaged           a file is not as the manifest says
└── NotEmpty          where it should be restored are books already
"""

from __future__ import annotations


class BackupError(Exception):
    """Root of the tree; its text is one line for the person at the terminal."""


class NothingToBackUp(BackupError):
    """There are no books."""


class NotTaken(BackupError):
    """A store could not be read, or a copy not be written."""


class NotRestored(BackupError):
    """A store could not be written."""


class NotABackup(BackupError):
    """The directory has no manifest, or none that can be read."""


class Damaged(BackupError):
    """A file is not as the manifest says."""


class NotEmpty(BackupError):
    """Nothing is restored over books."""
