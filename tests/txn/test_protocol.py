"""The coordinator's rules, as sequences of events and the actions that must follow."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from txn import protocol
from txn.model import BranchId
from txn.protocol import (
    Action,
    BranchProgress,
    ClaimStands,
    Event,
    ForceClaim,
    ForceClosed,
    ForceOutcome,
    ForceStated,
    OutcomeStands,
    PrepareFailed,
    Progress,
    SendAbort,
    SendCommit,
    SendPerform,
    SendPrepare,
    SendResolve,
    Settled,
    Stated,
    Voted,
    WriteCommitted,
    WriteEnd,
)
from txn.state import Outcome, TransactionState, Vote

A, B, C = BranchId("a"), BranchId("b"), BranchId("c")
COMMITTED = OutcomeStands(Outcome.COMMITTED)
ABORTED = OutcomeStands(Outcome.ABORTED)
FORCE_COMMIT = ForceOutcome(Outcome.COMMITTED)
FORCE_ABORT = ForceOutcome(Outcome.ABORTED)
S = TransactionState


def yes(branch_id: BranchId) -> Voted:
    """A vote to commit."""
    return Voted(branch_id, Vote.COMMIT)


def no(branch_id: BranchId) -> Voted:
    """A vote to abort."""
    return Voted(branch_id, Vote.ABORT, "NO")


def read_only(branch_id: BranchId) -> Voted:
    """A vote that takes no part."""
    return Voted(branch_id, Vote.READ_ONLY)


@dataclass(frozen=True)
class Case:
    """Branches, then each event with the actions that follow it, then where that ends."""

    branches: tuple[BranchId, ...]
    steps: tuple[tuple[Event, tuple[Action, ...]], ...]
    ends: TransactionState


CASES = {
    "two agree": Case(
        (A, B),
        (
            (yes(A), ()),
            (yes(B), (FORCE_COMMIT,)),
            (COMMITTED, (SendCommit(A), SendCommit(B))),
            (Settled(B), ()),
            (Settled(A), (WriteEnd(),)),
        ),
        S.COMMITTED,
    ),
    "one branch alone": Case(
        (A,),
        (
            (yes(A), (FORCE_COMMIT,)),
            (COMMITTED, (SendCommit(A),)),
            (Settled(A), (WriteEnd(),)),
        ),
        S.COMMITTED,
    ),
    "the first refusal aborts all but the refuser": Case(
        (A, B, C),
        (
            (yes(A), ()),
            (no(B), (SendAbort(A), SendAbort(C), FORCE_ABORT)),
            (ABORTED, ()),
            (Settled(A), ()),
            (Settled(C), ()),
        ),
        S.ABORTED,
    ),
    "a read-only voter is told nothing of an abort": Case(
        (A, B, C),
        (
            (read_only(A), ()),
            (no(B), (SendAbort(C), FORCE_ABORT)),
            (Settled(C), ()),
            (ABORTED, ()),
        ),
        S.ABORTED,
    ),
    "a read-only voter is told nothing of a commit": Case(
        (A, B),
        (
            (read_only(A), ()),
            (yes(B), (FORCE_COMMIT,)),
            (COMMITTED, (SendCommit(B),)),
            (Settled(B), (WriteEnd(),)),
        ),
        S.COMMITTED,
    ),
    "all read-only ends with the decision": Case(
        (A, B),
        ((read_only(A), ()), (read_only(B), (FORCE_COMMIT,)), (COMMITTED, (WriteEnd(),))),
        S.COMMITTED,
    ),
    "one that did not answer is told to abort": Case(
        (A, B),
        (
            (PrepareFailed(A, "GONE"), (SendAbort(A), SendAbort(B), FORCE_ABORT)),
            (Settled(A), ()),
            (Settled(B), ()),
            (ABORTED, ()),
        ),
        S.ABORTED,
    ),
    "a lone refuser aborts without a message": Case(
        (A,), ((no(A), (FORCE_ABORT,)), (ABORTED, ())), S.ABORTED
    ),
    "a decision that lost against another's row aborts": Case(
        (A, B),
        (
            (yes(A), ()),
            (yes(B), (FORCE_COMMIT,)),
            (ABORTED, (SendAbort(A), SendAbort(B))),
            (Settled(A), ()),
            (Settled(B), ()),
        ),
        S.ABORTED,
    ),
    "late votes change nothing": Case(
        (A, B),
        (
            (no(A), (SendAbort(B), FORCE_ABORT)),
            (yes(B), ()),
            (no(B), ()),
            (PrepareFailed(B, "GONE"), ()),
            (ABORTED, ()),
        ),
        S.ABORTING,
    ),
    "repeated events change nothing": Case(
        (A, B),
        (
            (yes(A), ()),
            (yes(A), ()),
            (yes(B), (FORCE_COMMIT,)),
            (yes(B), ()),
            (COMMITTED, (SendCommit(A), SendCommit(B))),
            (COMMITTED, ()),
            (Settled(A), ()),
            (Settled(A), ()),
            (Settled(B), (WriteEnd(),)),
            (Settled(B), ()),
            (COMMITTED, ()),
        ),
        S.COMMITTED,
    ),
    "a second word of a branch does not replace its vote": Case(
        (A, B),
        ((yes(A), ()), (no(A), ()), (PrepareFailed(A, "GONE"), ()), (read_only(A), ())),
        S.PREPARING,
    ),
    "what nobody can have said yet changes nothing": Case(
        (A, B),
        (
            (Settled(A), ()),
            (COMMITTED, ()),
            (ABORTED, ()),
            (yes(A), ()),
            (yes(B), (FORCE_COMMIT,)),
            (Settled(B), ()),
            (COMMITTED, (SendCommit(A), SendCommit(B))),
        ),
        S.COMMITTING,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_sequence(case: Case) -> None:
    """Each event is followed by exactly the actions in the table."""
    progress, actions = protocol.begin(case.branches)
    assert tuple(SendPrepare(name) for name in case.branches) == actions
    for event, expected in case.steps:
        progress, actions = protocol.step(progress, event)
        assert expected == actions
    assert case.ends is progress.state


def test_the_first_refusal_is_the_reason() -> None:
    """The reason and the branch that callers are told are those of the first refusal."""
    progress, _ = protocol.begin([A, B])
    progress, _ = protocol.step(progress, Voted(B, Vote.ABORT, "INSUFFICIENT_FUNDS"))
    progress, _ = protocol.step(progress, Voted(A, Vote.ABORT, "OTHER"))
    first = ("INSUFFICIENT_FUNDS", B)
    assert first == (progress.reason, progress.refused_branch_id)


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "no-vote"])
def test_what_an_abort_was_for_is_known_to_its_end(lost: bool) -> None:
    """Reason and branch are told to whoever asks, whatever else happens to the transaction."""
    refusal = PrepareFailed(B, "GONE") if lost else Voted(B, Vote.ABORT, "GONE")
    progress, _ = protocol.begin([A, B, C])
    for event in (refusal, ABORTED, Settled(A), Settled(B), Settled(C)):
        progress, _ = protocol.step(progress, event)
        assert ("GONE", B) == (progress.reason, progress.refused_branch_id)
    assert S.ABORTED is progress.state


def test_votes_are_known_to_the_end() -> None:
    """Who voted what decides, after the end, who is told to forget."""
    votes = {A: Vote.COMMIT, B: Vote.READ_ONLY, C: Vote.COMMIT}
    progress, _ = protocol.begin(votes)
    for name, vote in votes.items():
        progress, _ = protocol.step(progress, Voted(name, vote))
    for event in (COMMITTED, Settled(A), Settled(C)):
        progress, _ = protocol.step(progress, event)
        assert votes == {name: branch.vote for name, branch in progress.branches.items()}
    assert S.COMMITTED is progress.state


def test_resume_repeats_phase_two() -> None:
    """A commit found in the log is sent again to all that have something to commit."""
    progress, actions = protocol.resume([(A, Vote.COMMIT), (B, Vote.READ_ONLY), (C, None)])
    assert (SendCommit(A), SendCommit(C)) == actions
    assert S.COMMITTING is progress.state
    progress, _ = protocol.step(progress, Settled(A))
    progress, actions = protocol.step(progress, Settled(C))
    assert (S.COMMITTED, (WriteEnd(),)) == (progress.state, actions)


def test_resume_with_nobody_to_tell_ends_at_once() -> None:
    """A commit whose branches all were read-only has only its end left to write."""
    progress, actions = protocol.resume([(A, Vote.READ_ONLY)])
    assert (S.COMMITTED, (WriteEnd(),)) == (progress.state, actions)


def _events(names: list[BranchId]) -> st.SearchStrategy[Event]:
    name = st.sampled_from(names)
    return st.one_of(
        st.builds(Voted, name, st.sampled_from(Vote), st.just("NO")),
        st.builds(PrepareFailed, name, st.just("GONE")),
        st.builds(Settled, name),
        st.builds(OutcomeStands, st.sampled_from([Outcome.COMMITTED, Outcome.ABORTED])),
    )


def _must_settle(actions: list[Action]) -> set[BranchId]:
    return {a.branch_id for a in actions if isinstance(a, SendCommit | SendAbort)}


@settings(max_examples=150)
@given(data=st.data(), count=st.integers(1, 4))
def test_any_order_of_events_keeps_the_promises(data: st.DataObject, count: int) -> None:
    """Never both commit and abort, never a commit before its row, no end before all is settled."""
    names = [BranchId(str(number)) for number in range(count)]
    progress, first = protocol.begin(names)
    done: list[Action] = list(first)
    settled: set[BranchId] = set()
    forced: list[ForceOutcome] = []
    for event in data.draw(st.lists(_events(names), max_size=40)):
        before = progress
        progress, actions = protocol.step(progress, event)
        if any(isinstance(action, SendCommit) for action in actions):
            assert event == COMMITTED
            assert FORCE_COMMIT in forced
        if isinstance(event, Settled) and event.branch_id in _must_settle(done):
            settled.add(event.branch_id)
        done += actions
        forced += [action for action in actions if isinstance(action, ForceOutcome)]
        _check(before, progress, done, settled)
    assert len(forced) <= 1


def _check(before: Progress, now: Progress, done: list[Action], settled: set[BranchId]) -> None:
    kinds = {type(action) for action in done}
    assert not {SendCommit, SendAbort} <= kinds
    assert len(done) == len(set(done)), "nothing is asked for twice"
    if now.state in (S.COMMITTED, S.ABORTED):
        assert _must_settle(done) <= settled
        assert now.durable is not None
    if before.state in (S.COMMITTED, S.ABORTED):
        assert before == now
    assert (WriteEnd() in done) == (now.state is S.COMMITTED)
    assert now.awaited == _awaited(now)


def _awaited(progress: Progress) -> int:
    """How many branches somebody waits for, counted anew."""
    branches = progress.branches.values()
    if progress.state is S.PREPARING:
        return sum(branch.vote is None for branch in branches)
    if progress.state is S.DECIDING:
        return 0
    told = [branch for branch in branches if branch.vote not in (Vote.ABORT, Vote.READ_ONLY)]
    return sum(not branch.settled for branch in told)


CLAIMED = (ClaimStands(), (SendPerform(A),))
CLOSE_ABORTED = ForceClosed(Outcome.ABORTED)
IN_ONE_PHASE = {
    "performed": Case((A,), (CLAIMED, (yes(A), (WriteCommitted(),))), S.COMMITTED),
    "refused, and told when that is durable": Case(
        (A,), (CLAIMED, (no(A), (CLOSE_ABORTED,)), (ABORTED, ())), S.ABORTED
    ),
    "refused, and not durable yet": Case((A,), (CLAIMED, (no(A), (CLOSE_ABORTED,))), S.ABORTING),
    "nothing to do, and told when that is durable": Case(
        (A,),
        (CLAIMED, (read_only(A), (ForceClosed(Outcome.COMMITTED),)), (COMMITTED, (WriteEnd(),))),
        S.COMMITTED,
    ),
    "the key is another's: nothing is sent": Case((A,), ((ABORTED, ()),), S.ABORTED),
    "not before the claim": Case((A,), ((yes(A), ()), (no(A), ())), S.CLAIMING),
    "not answered in time, and done": Case(
        (A,),
        (CLAIMED, (PrepareFailed(A, "GONE"), (SendResolve(A),)), (yes(A), (WriteCommitted(),))),
        S.COMMITTED,
    ),
    "not answered in time, and not done": Case(
        (A,),
        (
            CLAIMED,
            (PrepareFailed(A, "GONE"), (SendResolve(A),)),
            (Voted(A, Vote.ABORT), (CLOSE_ABORTED,)),
            (ABORTED, ()),
        ),
        S.ABORTED,
    ),
    "repeated events change nothing": Case(
        (A,),
        (
            CLAIMED,
            (ClaimStands(), ()),
            (PrepareFailed(A, "GONE"), (SendResolve(A),)),
            (PrepareFailed(A, "GONE"), ()),
            (yes(A), (WriteCommitted(),)),
            (yes(A), ()),
            (no(A), ()),
            (COMMITTED, ()),
            (ABORTED, ()),
            (Settled(A), ()),
        ),
        S.COMMITTED,
    ),
    "what nobody can have said changes nothing": Case(
        (A,), (CLAIMED, (COMMITTED, ()), (ABORTED, ()), (Settled(A), ())), S.PERFORMING
    ),
}


@pytest.mark.parametrize("case", IN_ONE_PHASE.values(), ids=IN_ONE_PHASE.keys())
def test_sequence_in_one_phase(case: Case) -> None:
    """A key is claimed, a branch performed, and what only the coordinator knows is forced."""
    progress, actions = protocol.begin_in_one_phase(A)
    assert (ForceClaim(),) == actions
    for event, expected in case.steps:
        progress, actions = protocol.step(progress, event)
        assert expected == actions
        assert [A] == list(progress.branches)
    assert case.ends is progress.state


@pytest.mark.parametrize(
    ("vote", "how"),
    [
        (Vote.COMMIT, "at once"),
        (Vote.COMMIT, "when asked"),
        (Vote.COMMIT, "after a restart"),
        (Vote.ABORT, "at once"),
        (Vote.ABORT, "when asked"),
        (Vote.ABORT, "after a restart"),
        (Vote.READ_ONLY, "at once"),
    ],
)
def test_the_answer_in_one_phase_is_all_that_there_is_to_know(vote: Vote, how: str) -> None:
    """The branch has voted and is done with; nobody is waited for, before that or after it."""
    progress, _ = (protocol.resume_claim if how == "after a restart" else _begun)(A, "GONE")
    seen = [progress]
    events: dict[str, list[Event]] = {
        "at once": [ClaimStands()],
        "when asked": [ClaimStands(), PrepareFailed(A, "GONE")],
    }
    for event in events.get(how, []):
        progress, _ = protocol.step(progress, event)
        seen.append(progress)
    assert {BranchProgress()} == {each.branches[A] for each in seen}
    doubted = ("", "") if how == "at once" else (A, "GONE")
    assert doubted == (progress.refused_branch_id, progress.reason)
    progress, _ = protocol.step(progress, Voted(A, vote))
    seen.append(progress)
    assert {A: BranchProgress(vote, settled=True)} == progress.branches
    assert {0} == {each.awaited for each in seen}
    if vote is not Vote.ABORT:
        assert ("", "") == (progress.refused_branch_id, progress.reason)


def _begun(branch_id: BranchId, _reason: str) -> protocol.Step:
    return protocol.begin_in_one_phase(branch_id)


@pytest.mark.parametrize(
    ("said", "reason"), [("", "GONE"), ("INSUFFICIENT_FUNDS", "INSUFFICIENT_FUNDS")]
)
def test_the_reason_of_a_refusal_goes_before_that_of_silence(said: str, reason: str) -> None:
    """Who did not answer in time may have refused: then that is why."""
    progress, _ = protocol.begin_in_one_phase(A)
    progress, _ = protocol.step(progress, ClaimStands())
    progress, _ = protocol.step(progress, PrepareFailed(A, "GONE"))
    progress, _ = protocol.step(progress, Voted(A, Vote.ABORT, said))
    assert (reason, A) == (progress.reason, progress.refused_branch_id)


def test_a_claim_that_is_resumed_is_asked_about() -> None:
    """What became of it its participant knows, and nobody else."""
    progress, actions = protocol.resume_claim(A, "INTERRUPTED")
    assert (S.RESOLVING, (SendResolve(A),)) == (progress.state, actions)
    done, actions = protocol.step(progress, yes(A))
    assert (S.COMMITTED, (WriteCommitted(),)) == (done.state, actions)
    assert ("", "") == (done.reason, done.refused_branch_id)
    undone, actions = protocol.step(progress, Voted(A, Vote.ABORT))
    assert ((CLOSE_ABORTED,), "INTERRUPTED") == (actions, undone.reason)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), resumed=st.booleans())
def test_in_one_phase_any_order_of_events_has_one_outcome(
    data: st.DataObject, resumed: bool
) -> None:
    """One outcome at most, that of the first answer, and none without an answer."""
    begun = protocol.resume_claim(A, "LATE") if resumed else protocol.begin_in_one_phase(A)
    progress, _ = begun
    done: list[Action] = []
    events = st.one_of(
        st.just(ClaimStands()),
        st.builds(Voted, st.just(A), st.sampled_from([Vote.COMMIT, Vote.ABORT]), st.just("NO")),
        st.builds(PrepareFailed, st.just(A), st.just("GONE")),
        st.builds(Settled, st.just(A)),
    )
    answers: list[Vote] = []
    for event in data.draw(st.lists(events, max_size=12)):
        asked = progress.state in (S.PERFORMING, S.RESOLVING)
        progress, actions = protocol.step(progress, event)
        if asked and isinstance(event, Voted):
            answers.append(event.vote)
        done += actions
    outcomes = [each for each in done if isinstance(each, WriteCommitted | ForceClosed)]
    expected = [WriteCommitted() if vote is Vote.COMMIT else CLOSE_ABORTED for vote in answers[:1]]
    assert expected == outcomes
    assert len(done) == len(set(done)), "nothing is asked for twice"


def _asked(*events: Event) -> Progress:
    """A single branch in one phase whose participant was asked."""
    progress, _ = protocol.begin_in_one_phase(A)
    for event in (ClaimStands(), *events):
        progress, _ = protocol.step(progress, event)
    return progress


@pytest.mark.parametrize("before", [(), (PrepareFailed(A, "GONE"),)])
@pytest.mark.parametrize(
    ("stated", "stands", "told", "ends", "writes"),
    [
        (COMMITTED, COMMITTED, SendCommit(A), S.COMMITTED, (WriteEnd(),)),
        (ABORTED, ABORTED, SendAbort(A), S.ABORTED, ()),
        (COMMITTED, ABORTED, SendAbort(A), S.ABORTED, ()),
        (ABORTED, COMMITTED, SendCommit(A), S.COMMITTED, (WriteEnd(),)),
    ],
)
def test_what_an_operator_states_is_written_and_then_told(
    before: tuple[Event, ...],
    stated: OutcomeStands,
    stands: OutcomeStands,
    told: Action,
    ends: TransactionState,
    writes: tuple[Action, ...],
) -> None:
    """Nobody hears it before it is durable, what stands is told, late answers change nothing."""
    progress, actions = protocol.step(_asked(*before), Stated(stated.outcome))
    assert (ForceStated(stated.outcome),) == actions
    # What was done is written like a vote, so that it is known who has to hear of it.
    voted = Vote.COMMIT if stated.outcome is Outcome.COMMITTED else None
    assert {A: BranchProgress(voted)} == progress.branches
    for late in (yes(A), no(A), read_only(A), PrepareFailed(A, "LATE"), Stated(Outcome.COMMITTED)):
        assert (progress, ()) == protocol.step(progress, late)
    progress, actions = protocol.step(progress, stands)
    assert (told,) == actions
    progress, actions = protocol.step(progress, Settled(A))
    assert (ends, writes) == (progress.state, actions)


def test_nothing_is_stated_of_what_is_not_asked() -> None:
    """Two phases are decided by votes, and what is claimed was not sent yet."""
    for progress, _ in (protocol.begin([A, B]), protocol.begin_in_one_phase(A)):
        assert (progress, ()) == protocol.step(progress, Stated(Outcome.COMMITTED))


def test_a_stated_abort_is_told_again_after_a_restart() -> None:
    """Until it is acknowledged, as a commit is."""
    progress, actions = protocol.resume_abort([A])
    assert ((SendAbort(A),), S.ABORTING, Outcome.ABORTED) == (
        actions,
        progress.state,
        progress.durable,
    )
    progress, actions = protocol.step(progress, Settled(A))
    assert (S.ABORTED, ()) == (progress.state, actions)
