"""A coordinator that is gone is taken over from, and fenced when it comes back: fault row 19."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.books import books_agree
from tests.support.coordinators import (
    FEW,
    FINAL_WITHIN_S,
    KILLED,
    RECOVER_WITHIN_S,
    TAKEN_OVER_WITHIN_S,
    committed_in,
    launched,
    measured,
    paid_by,
    shops,
    standing,
    unfinished_of,
)
from tests.support.faults import stop_between_turns
from tests.support.load import Load
from tests.support.mesh import (
    Mesh,
)
from tests.support.waiting import eventually
from txn.crash_point import AFTER_DECISION, BEFORE_DECISION
from txn.store.opening import EXIT_FENCED


@pytest.mark.parametrize("failpoint", [BEFORE_DECISION, AFTER_DECISION])
async def test_a_killed_coordinator_is_taken_over_from(pair: Mesh, failpoint: str) -> None:
    """What it had decided is carried out by the other one, what it had not is aborted."""
    victim = pair.processes["coordinator-1"]
    payers = await shops(pair)
    await victim.terminate()
    await launched(pair, victim, failpoint)
    epoch = standing(pair)[victim.address]
    async with Load(payers) as load:
        assert await victim.ended() == KILLED
        began_s = time.monotonic()
        assert unfinished_of(pair, epoch) != []
        await load.until_paid(FEW)
        await eventually(
            lambda: not unfinished_of(pair, epoch), timeout_s=FINAL_WITHIN_S, what="all final"
        )
        measured(f"final {time.monotonic() - began_s:.2f} s after the kill at {failpoint}")
        assert victim.address not in standing(pair)
    committed = committed_in(pair, epoch)
    assert (committed != set()) == (failpoint == AFTER_DECISION)
    await books_agree(pair)


async def test_payments_go_on_when_one_of_two_is_killed_under_load(pair: Mesh) -> None:
    """Its transactions are final within its TTL and 3 s; others do not wait for that."""
    victim = pair.processes["coordinator-1"]
    async with Load(await shops(pair)) as load:
        epoch = await paid_by(pair, victim)
        await eventually(lambda: unfinished_of(pair, epoch), what="something under way")
        victim.kill9()
        began_s = time.monotonic()
        await load.until_paid(FEW)
        paid_s = time.monotonic() - began_s
        await eventually(
            lambda: not unfinished_of(pair, epoch) and victim.address not in standing(pair),
            timeout_s=FINAL_WITHIN_S,
            what="all final",
        )
        measured(
            f"{FEW} payments {paid_s:.2f} s after the kill,"
            f" all of its own final {time.monotonic() - began_s:.2f} s after it"
        )
    await books_agree(pair)


async def test_row_19_a_stopped_coordinator_that_wakes_decides_nothing_more(pair: Mesh) -> None:
    """It is taken over from, fenced when it goes on, and starts again under a new epoch."""
    victim = pair.processes["coordinator-1"]
    async with Load(await shops(pair)) as load:
        epoch = await paid_by(pair, victim)
        await stop_between_turns(
            lambda: victim.send(signal.SIGSTOP),
            lambda: victim.send(signal.SIGCONT),
            pair.book("coordinator"),
        )
        began_s = time.monotonic()
        await eventually(
            lambda: victim.address not in standing(pair),
            timeout_s=TAKEN_OVER_WITHIN_S,
            what="taken over",
        )
        measured(f"taken over {time.monotonic() - began_s:.2f} s after SIGSTOP")
        # A claim may have become a commit at its participant before, which who takes over learns.
        before = committed_in(pair, epoch, "PENDING")
        await load.until_paid(FEW)
        victim.send(signal.SIGCONT)
        assert await victim.ended() == EXIT_FENCED
        assert "another coordinator has taken over" in victim.log
        await launched(pair, victim)
        assert await paid_by(pair, victim) > epoch
    late = committed_in(pair, epoch) - before
    # What it had written down before is carried out, and nothing else.
    assert late == set()
    await books_agree(pair)


async def test_nobody_takes_over_while_the_registry_is_away(pair: Mesh) -> None:
    """Both go on; who is killed then is taken over from when it is back."""
    victim = pair.processes["coordinator-1"]
    epoch = standing(pair)[victim.address]
    async with Load(await shops(pair)) as load:
        await paid_by(pair, victim)
        pair.etcd.kill9()
        try:
            await load.until_paid(FEW)
            victim.kill9()
            await load.until_paid(FEW)
            past_s = time.monotonic() + TAKEN_OVER_WITHIN_S
            await eventually(
                lambda: time.monotonic() > past_s, 2 * TAKEN_OVER_WITHIN_S, what="its TTL over"
            )
            assert standing(pair)[victim.address] == epoch
        finally:
            pair.etcd.start()
        await eventually(
            lambda: victim.address not in standing(pair),
            timeout_s=RECOVER_WITHIN_S,
            what="taken over",
        )
        await load.until_paid(FEW)
    await books_agree(pair)
