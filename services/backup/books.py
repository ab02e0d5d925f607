"""All books of a mesh, wherever they are kept, as far as a backup has to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Protocol

from services.backup.comparing import Snapshot
from txn.decision_log import DecisionLog
from txn.store.group_commit import Store
from txn.store.sql import Sql


class Instant(Protocol):
    """Every store as it was at one instant."""

    @property
    def stores(self) -> Mapping[str, Snapshot]:
        """To be read; by the service that keeps it."""

    @property
    def pause_ms(self) -> float:
        """How long writers had to wait for it."""

    def copy(self, directory: Path) -> None:
        """Writes all of it to new files. Raises BackupError."""


class Books(Protocol):
    """Where the books of a mesh are."""

    kind: str

    def at_one_instant(self) -> AbstractContextManager[Instant]:
        """Opens them for reading, while others write. Raises BackupError."""

    def own_log(self) -> AbstractAsyncContextManager[tuple[Store[Sql], DecisionLog]]:
        """The log, to write to, while no coordinator runs. Raises BackupError."""

    def restore(self, files: Sequence[Path]) -> None:
        """Puts what `copy` has written where there are no books yet. Raises BackupError."""
