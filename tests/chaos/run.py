"""One run from beginning to end: a mesh, clients, faults, and what came of it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tests.chaos import inspection
from tests.chaos.clocks import Clocks, find_library
from tests.chaos.crowd import Crowd
from tests.chaos.faults import Fault, Kind, Victim, campaign, schedule
from tests.chaos.findings import Findings
from tests.chaos.history import History
from tests.chaos.monitor import Monitor
from tests.chaos.nemesis import Nemesis
from tests.chaos.picture import Story
from tests.chaos.resources import Taken
from tests.chaos.rig import Rig
from tests.chaos.takeovers import SEATS, Takeovers, rounds
from tests.chaos.tally import clashes_refused, final_times, under_fire
from tests.chaos.teller import Teller
from tests.chaos.verdict import Run, finish, longest_calm_s
from tests.chaos.waiting import LOOK_S, until

CLIENT_PROCESSES = 5
WARM_UP_PAYMENTS_PER_CLIENT = 2
WARM_UP_TIMEOUT_S = 180.0
# More than is allowed: what comes late is not what never comes.
SETTLE_TIMEOUT_S = 180.0
PROGRESS_EVERY_S = 1.0
# Of a campaign: what has to be paid between two rounds, and how long that may take.
PAID_BETWEEN = 5
PAID_BETWEEN_TIMEOUT_S = 30.0
LEFT_OUT = (
    "etcd's clock stays: a Go program asks the kernel",
    "links are cut by proxies, not in the kernel; a client's links are those to etcd",
    "the supervisor is not killed: nobody would start the others",
    "I8: there are no notifications yet",
)
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to do.

    `kills` or `takeovers` ask for a campaign of so many, instead of `duration_s`; `mutant` names
    a bug that all services are to have.
    """

    home: Path
    seed: int
    duration_s: float
    clients: int
    think_s: float
    kills: int = 0
    takeovers: int = 0
    mutant: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """When the fire was out (by the monotonic clock), and how long after it all was final."""

    faults_end_s: float
    settled_s: float | None
    answered_s: float | None


class Bank:
    """See the module's docstring."""

    def __init__(self, options: Options, tell: Tell) -> None:
        self._options = options
        self._tell = tell
        self._history = History()
        library = find_library()
        clocks = Clocks(library, options.home / "clocks") if library else None
        self._left_out = list(LEFT_OUT)
        if clocks is None:
            self._left_out.append("wall clocks stay: libfaketime is not installed")
        processes = min(CLIENT_PROCESSES, options.clients)
        self._rig = Rig(
            options.home,
            clocks=clocks,
            clients=processes,
            mutant=options.mutant,
            coordinators=SEATS if options.takeovers else 1,
        )
        self._teller = Teller(options.home, self._rig.etcd, self._history)
        self._crowd = Crowd(
            options.home,
            lambda name: self._rig.network.to_etcd(name, self._rig.etcd),
            processes=processes,
            clients=options.clients,
            seed=options.seed,
            think_s=options.think_s,
        )
        self._nemesis = Nemesis(self._rig, self._crowd)
        self._takeovers = Takeovers(self._rig, self._nemesis)
        self._monitor = Monitor(
            self._rig, self._crowd, self._history, lambda: not self._nemesis.record.active
        )
        self._findings = Findings()
        self._before: dict[str, Taken] = {}
        self._started_s = 0.0
        self._unpaid_rounds = 0
        self._loads = [os.getloadavg()[0]]

    async def run(self) -> tuple[Run, Story]:
        """The whole story. Raises LauncherError or RuntimeError when it cannot begin."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._rig)
            await self._teller.open_accounts()
            self._crowd.start()
            stack.push_async_callback(self._crowd.close)
            self._monitor.start()
            stack.push_async_callback(self._monitor.close)
            await self._warm_up()
            self._started_s = time.monotonic()
            progress = asyncio.ensure_future(self._show_progress())
            stack.callback(progress.cancel)
            await self._under_fire()
            ending = await self._converge()
            await self._inspect()
            return self._sum_up(ending), self._story(ending)

    async def _warm_up(self) -> None:
        """Until every client has paid, on the average, more than once."""
        wanted = WARM_UP_PAYMENTS_PER_CLIENT * self._options.clients
        if not await until(lambda: self._monitor.paid >= wanted, WARM_UP_TIMEOUT_S):
            failures = "; ".join(self._crowd.failures)
            raise RuntimeError(f"only {self._monitor.paid} payments before any fault; {failures}")
        self._before = {name: has for name, has in self._monitor.taken().items() if has}

    async def _under_fire(self) -> None:
        options = self._options
        if options.takeovers:
            await self._take_over()
            return
        if options.kills:
            await self._campaign()
            return
        clocks = self._rig.clocks is not None
        await self._nemesis.run(
            schedule(options.seed, options.duration_s, self._rig.cast, clocks=clocks)
        )

    async def _campaign(self) -> None:
        """Rounds of kills; each begins when enough was paid after the one before."""
        for each in campaign(self._options.seed, self._options.kills, self._rig.cast):
            round_s = time.monotonic()
            for delay_s, victim in each.kills:
                await asyncio.sleep(max(0.0, round_s + delay_s - time.monotonic()))
                at_s = time.monotonic() - self._started_s
                self._nemesis.begin(Fault(Kind.KILL, (victim,), at_s))
            await self._pay_again()
        await self._nemesis.healed()

    async def _take_over(self) -> None:
        """Rounds of takeovers, until the log has seen enough."""
        options = self._options
        for each in rounds(options.seed, options.takeovers):
            at_s = time.monotonic() - self._started_s
            good = await self._takeovers.carry_out(each, at_s)
            self._findings.check("I5", good, f"nobody took over, or nobody came back: {each}")
            await self._pay_again()

    async def _pay_again(self) -> None:
        wanted = self._monitor.paid + PAID_BETWEEN
        paid = await until(lambda: self._monitor.paid >= wanted, PAID_BETWEEN_TIMEOUT_S)
        self._unpaid_rounds += not paid

    async def _converge(self) -> Ending:
        """Waits until clients are answered, processes serve and the books are quiet."""
        faults_end_s = self._nemesis.record.last_s()
        ended = asyncio.ensure_future(self._crowd.end())
        settled_s = None
        while settled_s is None and time.monotonic() < faults_end_s + SETTLE_TIMEOUT_S:
            await asyncio.sleep(LOOK_S)
            try:
                books = await self._monitor.books()
            except sqlite3.Error as error:
                self._monitor.watch.failed(error)
                continue
            if ended.done() and not books.unfinished() and self._rig.serving():
                settled_s = time.monotonic() - faults_end_s
        in_time = await ended
        self._monitor.read_journals()
        committed, aborted = final_times(self._history)
        answered_s = max([faults_end_s, *committed, *aborted]) - faults_end_s
        return Ending(faults_end_s, settled_s, answered_s if in_time else None)

    async def _inspect(self) -> None:
        last = await self._teller.pay_once_more()
        await inspection.next_payment(self._findings, self._monitor, last)
        await inspection.processes(
            self._findings, self._rig, self._crowd, self._monitor, self._before
        )
        spans = inspection.spans_since(self._nemesis.record, self._started_s)
        await inspection.books(self._findings, self._rig, self._monitor, spans, self._started_s)

    def _sum_up(self, ending: Ending) -> Run:
        record = self._nemesis.record
        run = Run(
            seed=self._options.seed,
            lasted_s=ending.faults_end_s - self._started_s,
            **under_fire(self._history, record.first_s(), ending.faults_end_s)._asdict(),
            faults=len(record.done),
            kinds=Counter(done.fault.kind.value for done in record.done),
            kills=record.kills,
            missed=record.missed,
            idle=record.idle,
            clashes_refused=clashes_refused(self._history),
            kills_asked=self._options.kills,
            takeovers=self._takeovers.count,
            takeovers_asked=self._options.takeovers,
            unpaid_rounds=self._unpaid_rounds,
            longest_calm_s=longest_calm_s(
                [done.began_s for done in record.done], self._started_s, ending.faults_end_s
            ),
            books_settled_s=ending.settled_s,
            answered_s=ending.answered_s,
            load=fmean(self._loads),
            late=self._monitor.late(ending.faults_end_s),
            snapshots=self._monitor.watch.snapshots(self._started_s, ending.faults_end_s),
            unread=self._monitor.watch.unread,
            oldest_in_doubt_s=self._monitor.watch.oldest_s,
            cast=self._rig.cast,
            left_out=self._left_out,
            findings=self._findings,
        )
        finish(run)
        return run

    def _story(self, ending: Ending) -> Story:
        started_s = self._started_s
        committed, aborted = final_times(self._history)
        cast = self._rig.cast.items()
        return Story(
            title=f"bank under fire, seed {self._options.seed}: payments per second, and faults",
            duration_s=ending.faults_end_s - started_s + (ending.settled_s or SETTLE_TIMEOUT_S),
            committed_s=[at_s - started_s for at_s in committed if at_s >= started_s],
            aborted_s=[at_s - started_s for at_s in aborted if at_s >= started_s],
            spans=inspection.spans_since(self._nemesis.record, started_s),
            lanes=[Victim(role, number).name for role, count in cast for number in range(count)],
            faults_end_s=ending.faults_end_s - started_s,
        )

    async def _show_progress(self) -> None:
        paid, said_s = self._monitor.paid, time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_EVERY_S)
            now_s, record = time.monotonic(), self._nemesis.record
            rate = (self._monitor.paid - paid) / (now_s - said_s)
            paid, said_s = self._monitor.paid, now_s
            active = "; ".join(map(str, record.active)) or "nothing is broken"
            self._loads.append(os.getloadavg()[0])
            self._tell(
                f"{now_s - self._started_s:5.0f} s  {paid} paid ({rate:.0f}/s)"
                f"  {len(record.done)} faults, {record.kills.total()} kills"
                f"  {self._monitor.watch.in_doubt} in doubt"
                f"  {self._monitor.watch.found.total} violations  {active}"
            )
