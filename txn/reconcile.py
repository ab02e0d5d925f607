"""Whether a decision log and the branches of its participants can belong to one history.

While processes die and messages are lost they always do: what is left open then is asked
about. What breaks it is a store that went back in time alone, such as one that was restored
from a backup of another instant. The log may then know nothing of what a participant has
committed, or a participant nothing of what it has promised. Nobody would notice: the log
presumes an abort where it has no row, and nobody looks at a commit whose end it has.

An operator who has ended a transaction by force (audit.py) has settled by hand what was left, so
that what is missing there is no loss.

Rules only, over what was read of one transaction: see services/backup for what reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from txn.audit import AuditRecord, settled_by_hand
from txn.model import log_id_of
from txn.state import BranchState, Outcome, Vote


class Place(NamedTuple):
    """A branch, and the participant that it is, or should be, at."""

    participant: str
    branch_id: str


class Logged(NamedTuple):
    """What a row of the log says; `votes` of each branch, None where none was logged."""

    outcome: Outcome
    ended: bool
    votes: Mapping[Place, Vote | None]


class Evidence(NamedTuple):
    """All that is known of one transaction; `forced` is the newest record of a force."""

    txn_id: str
    logged: Logged | None
    branches: Mapping[Place, BranchState]
    forced: AuditRecord | None = None


class Facts(NamedTuple):
    """What is known of the log as a whole, and the prepare horizon of each participant.

    At or below `truncated_to` its rows may be gone; `newest` is the greatest txn_id that it has
    or had. A participant that was not looked at is not in `horizons`.
    """

    log_id: str
    truncated_to: str
    newest: str
    horizons: Mapping[str, str]


class Kind(Enum):
    """What was found of a branch. The first three resolve themselves once a mesh runs.

    And the fourth was resolved by somebody.
    """

    WILL_COMMIT = "in doubt, and will be committed"
    WILL_ABORT = "in doubt, and will be aborted"
    WILL_BE_ASKED = "the log has a claim: its participant will be asked what became of it"
    ENDED_BY_HAND = "an operator has ended it: the log and the participant may differ"
    LOST = "the log says COMMITTED, the participant has never heard of it: its store is older"
    ABORTED_THERE = "the log says COMMITTED, the participant has aborted"
    COMMITTED_THERE = "the log says ABORTED, the participant has committed"
    UNLOGGED = "the participant has committed, the log knows nothing of it: the log is older"
    SPLIT = "in doubt, and would be aborted, while another branch of it is committed"
    END_LOST = "the log waits for it, the participant has forgotten it: the log is older"
    UNDER_CLAIM = "prepared in two phases, while the log has a claim for one"
    TOO_OLD = "in doubt, and the log is truncated beyond it: nobody can answer"
    OTHER_LOG = "in doubt, and another log would have to answer"
    AHEAD = "the participant was told of transactions that the log does not know: it is older"

    @property
    def contradiction(self) -> bool:
        """Whether people have to look at it."""
        return self not in _HARMLESS


_HARMLESS = frozenset((Kind.WILL_COMMIT, Kind.WILL_ABORT, Kind.WILL_BE_ASKED, Kind.ENDED_BY_HAND))
# What may have been the reason to end something by hand, and stays as it was.
_SETTLED = frozenset((Kind.LOST, Kind.ABORTED_THERE, Kind.COMMITTED_THERE))


class Finding(NamedTuple):
    """What was found, and where; `branch_id` is empty where it is about a whole store.

    `forced` is the newest record of what an operator has forced of that transaction.
    """

    kind: Kind
    txn_id: str
    participant: str
    branch_id: str = ""
    forced: AuditRecord | None = None


def judge_stores(facts: Facts) -> Iterator[Finding]:
    """What the horizons alone show: a log tells none above what it has decided durably."""
    for participant, horizon in sorted(facts.horizons.items()):
        if horizon > facts.newest:
            yield Finding(Kind.AHEAD, horizon, participant)


def judge(facts: Facts, evidence: Evidence) -> Iterator[Finding]:
    """What is open, and what cannot be, of one transaction."""
    places = set(evidence.branches)
    if evidence.logged is not None:
        places.update(evidence.logged.votes)
    for place in sorted(places):
        if place.participant in facts.horizons:
            kind = _kind(facts, evidence, place)
            if kind in _SETTLED and evidence.forced and settled_by_hand(evidence.forced):
                kind = Kind.ENDED_BY_HAND
            if kind is not None:
                yield Finding(kind, evidence.txn_id, *place, evidence.forced)


def _kind(facts: Facts, evidence: Evidence, place: Place) -> Kind | None:
    state = evidence.branches.get(place)
    if log_id_of(evidence.txn_id) != facts.log_id:
        return Kind.OTHER_LOG if state is BranchState.PREPARED else None
    if evidence.logged is None:
        return _unlogged(facts, evidence, state)
    forgotten = evidence.txn_id < facts.horizons[place.participant]
    if evidence.logged.outcome is Outcome.COMMITTED:
        return _committed(evidence.logged, place, state, forgotten=forgotten)
    if evidence.logged.outcome is Outcome.ABORTED:
        return (
            {
                BranchState.PREPARED: Kind.WILL_ABORT,
                BranchState.COMMITTED: Kind.COMMITTED_THERE,
            }.get(state)
            if state
            else None
        )
    if state is BranchState.PREPARED:
        return Kind.UNDER_CLAIM
    return Kind.END_LOST if state is None and forgotten else Kind.WILL_BE_ASKED


def _committed(
    logged: Logged, place: Place, state: BranchState | None, *, forgotten: bool
) -> Kind | None:
    """A participant forgets what is below its horizon alone, and only what has ended."""
    if state is BranchState.PREPARED:
        return Kind.WILL_COMMIT
    if state is BranchState.ABORTED:
        return Kind.ABORTED_THERE
    if state is BranchState.COMMITTED or logged.votes.get(place) is Vote.READ_ONLY:
        return None
    if not forgotten:
        return Kind.LOST
    return None if logged.ended else Kind.END_LOST


def _unlogged(facts: Facts, evidence: Evidence, state: BranchState | None) -> Kind | None:
    """Presumed aborted; what any participant has committed was decided all the same."""
    truncated = evidence.txn_id <= facts.truncated_to
    if state is BranchState.COMMITTED:
        return None if truncated else Kind.UNLOGGED
    if state is not BranchState.PREPARED:
        return None
    if truncated:
        return Kind.TOO_OLD
    committed = BranchState.COMMITTED in evidence.branches.values()
    return Kind.SPLIT if committed else Kind.WILL_ABORT


class Proof(NamedTuple):
    """What a log has lost, and books have kept: a commit, or that everybody has acknowledged it.

    `places` are those of its branches that are known, which is all of them where no other store
    went back in time; empty where the log has the row. With `ended` nobody waits for it any more.
    """

    txn_id: str
    places: tuple[Place, ...]
    ended: bool


def proof(facts: Facts, evidence: Evidence) -> Proof | None:
    """What may be written into a log that is older than the books; None for nothing, or not surely.

    A participant commits only what was decided, and forgets a commit only when its end is durable.
    """
    kinds = {finding.kind for finding in judge(facts, evidence) if finding.kind.contradiction}
    states = set(evidence.branches.values())
    if kinds and kinds <= {Kind.UNLOGGED, Kind.SPLIT} and BranchState.ABORTED not in states:
        places = tuple(sorted(evidence.branches))
        return Proof(evidence.txn_id, places, ended=BranchState.PREPARED not in states)
    logged = evidence.logged
    if kinds == {Kind.END_LOST} and logged is not None and logged.outcome is Outcome.COMMITTED:
        known = all(place.participant in facts.horizons for place in logged.votes)
        if known and BranchState.PREPARED not in states:
            return Proof(evidence.txn_id, (), ended=True)
    return None
