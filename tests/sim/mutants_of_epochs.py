"""Planted bugs of several coordinators; see mutants.py."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tests.sim import mutants
from tests.sim.mutants import mutant, simulated
from txn import testing
from txn.coordinator import Coordinator
from txn.decision_log import Tenure
from txn.epoch_keeper import EpochKeeper
from txn.model import NO_EPOCH, Epoch
from txn.store.group_commit import GroupCommit
from txn.testing import MemoryDecisionLog, Tables


@mutant
def nobody_is_fenced(stack: ExitStack) -> None:
    """Who has lost the epoch writes on."""
    mutants.swap(stack, GroupCommit, "_hold", lambda self, tx: None)


@mutant
def fenced_at_the_next_look(stack: ExitStack) -> None:
    """Whether the epoch stands is looked at now and then, not by each group."""
    hold = GroupCommit._hold

    def rarely(self: Any, tx: Any) -> None:
        self.groups = getattr(self, "groups", 0) + 1
        if self.groups % 4 == 0:
            hold(self, tx)

    mutants.swap(stack, GroupCommit, "_hold", rarely)


@mutant
def epoch_of_others_ignored(stack: ExitStack) -> None:
    """An inquiry writes the abort of what another coordinator may still decide."""
    mutants.swap(stack, EpochKeeper, "stands_elsewhere", lambda self, txn_id: False)


@mutant
def new_epochs_not_looked_at(stack: ExitStack) -> None:
    """An epoch that was begun a moment ago counts as one that is over."""
    mutants.swap(stack, EpochKeeper, "is_news", lambda self, txn_id: False)


@mutant
def taken_over_and_left(stack: ExitStack) -> None:
    """Another's epoch is ended, and what was begun in it is nobody's."""

    async def nothing(self: Coordinator, inherited: frozenset[Epoch]) -> int:
        return 0

    mutants.swap(stack, Coordinator, "_resume_all", nothing)


@simulated
def inheritance_of_the_dead(stack: ExitStack) -> None:
    """Who takes over does not go on with what the other had taken over before."""
    take_over = testing._take_over

    def own_only(tx: Tables, over: Sequence[Epoch], successor: Epoch) -> frozenset[Epoch]:
        return take_over(tx, over, successor) & set(over)

    mutants.swap(stack, testing, "_take_over", own_only)


@mutant
def predecessor_left(stack: ExitStack) -> None:
    """Who starts again does not go on with what it had begun before."""
    begin = EpochKeeper.begin

    async def anew(self: EpochKeeper, instance: str) -> frozenset[Epoch]:
        return (await begin(self, instance)) & {NO_EPOCH}

    mutants.swap(stack, EpochKeeper, "begin", anew)


@simulated
def epoch_begun_twice(stack: ExitStack) -> None:
    """Two coordinators get the same epoch."""
    begin = testing._begin_epoch

    def same(tx: Tables, instance: str) -> Tenure:
        tenure = begin(tx, instance)
        rows = tx["epoch"]
        lower = Epoch(tenure.epoch - 1)
        if lower in rows and rows[lower].instance not in ("", instance):
            return Tenure(lower, tenure.inherited)
        return tenure

    mutants.swap(stack, testing, "_begin_epoch", same)


@mutant
def horizon_of_one(stack: ExitStack) -> None:
    """A coordinator tells its own horizon, whatever the others have under way."""
    look = EpochKeeper._look

    async def alone(self: Any) -> None:
        await look(self)
        self.horizon = self._seen.newest_txn_id

    mutants.swap(stack, EpochKeeper, "_look", alone)


@simulated
def horizon_forgets_what_is_inherited(stack: ExitStack) -> None:
    """Between a takeover and the taking up, what the other held back is held back no more."""
    take_over = MemoryDecisionLog.take_over

    async def hasty(self: Any, epoch: Epoch) -> frozenset[Epoch]:
        inherited = await take_over(self, epoch)
        newest = await self.newest_txn_id()
        if inherited and newest is not None:
            await self.announce(newest)
        return inherited

    mutants.swap(stack, MemoryDecisionLog, "take_over", hasty)


@mutant
def ids_below_the_horizon(stack: ExitStack) -> None:
    """Ids go by the wall clock alone, wherever those of before the restart, and of others, are."""
    mutants.swap(stack, Coordinator, "_begin_above", lambda self, newest: None)
