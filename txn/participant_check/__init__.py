"""Tells whether a resource keeps what a participant promises, by using it as one.

The resource runs behind a real Participant over a real SQLite file, through the moments
that its methods do not see: repeated and late messages, restarts between prepare and
commit, work that is undone after the method has returned. What is compared is the
tables, so whatever is kept elsewhere is missing or left over.

(As Go's testing/fstest does for a file system: it reports all that it finds.)
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from txn.participant_check.one_branch import OneBranch
from txn.participant_check.rules import Broken, BrokenRules, Rule
from txn.participant_check.several_branches import SeveralBranches
from txn.participant_check.site import unheard
from txn.participant_check.subject import Subject
from txn.resource import BatchResource, Resource
from txn.store.opening import Schema, schema_of

__all__ = ["BrokenRules", "Rule", "check_participant"]

Op = TypeVar("Op")
Tx = sqlite3.Connection


async def check_participant(
    resource: Callable[[], Resource[Tx, Op] | BatchResource[Tx, Op]],
    *,
    accepted: Sequence[Op],
    refused: Sequence[Op],
    rivals: Sequence[tuple[Op, Op]],
    schema: Schema | None = None,
    setup: Callable[[Tx], object] | None = None,
    state: Callable[[Tx], object] | None = None,
) -> None:
    """Checks a resource that works on SQLite. Raises BrokenRules, an AssertionError.

    `resource` makes one, and is called again for each start of the participant. `schema`
    are its tables, those of its attribute `schema` if left out; `setup` fills them. From
    there on `accepted` can all be done, each alone and all of them (at least one; two or
    more let it see whether branches are kept apart), and each of `refused` (at least one)
    cannot. Of each of `rivals` the first can be done and then the second cannot; () where
    no two operations want the same thing.

    `state` reads what counts, if that is not all of the schema's tables: where abort leaves
    a trace on purpose, or commit writes down the time. Raises ValueError without samples,
    and when what `setup` does cannot be committed.
    """
    if not accepted or not refused:
        raise ValueError("give at least one operation that is accepted and one that is refused")
    if schema is None:
        schema = schema_of("resource", getattr(resource(), "schema", ()))
    subject = Subject(resource, schema, setup, state, (accepted, refused, rivals))
    broken: dict[Rule, str] = {}
    for kind in (OneBranch[Op], SeveralBranches[Op]):
        with tempfile.TemporaryDirectory() as directory, unheard():
            scenarios = kind(Path(directory), subject)
            for scenario in scenarios.all():
                try:
                    await scenario()
                except Broken as error:
                    broken.setdefault(error.rule, error.seen)
                finally:
                    await scenarios.close()
    if broken:
        raise BrokenRules(broken)
