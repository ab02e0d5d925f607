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

from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.wallet.v1 import wallet_service_pb2

from tests.chaos.checker import check
from tests.chaos.client import Journal
from tests.chaos.clocks import Clocks, find_library
from tests.chaos.crowd import Crowd
from tests.chaos.faults import Fault, Kind, Victim, campaign, schedule
from tests.chaos.findings import Findings
from tests.chaos.history import Heard, History, Request
from tests.chaos.money import (
    ACCOUNTS_BY_CURRENCY,
    BANK_LIMIT_MINOR,
    HOLDERS,
    PASSWORD,
    bank,
    funding,
)
from tests.chaos.monitor import Monitor, final_times
from tests.chaos.nemesis import Nemesis
from tests.chaos.paying import Payer
from tests.chaos.picture import Story
from tests.chaos.probes import Span, judge
from tests.chaos.resources import Taken, check_ends, check_logs, check_taken, too_much
from tests.chaos.rig import Rig
from tests.chaos.verdict import Run, finish, longest_calm_s
from tests.chaos.waiting import LOOK_S, until

CLIENT_PROCESSES = 5
WARM_UP_PAYMENTS_PER_CLIENT = 2
WARM_UP_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 60.0
CALM_DOWN_TIMEOUT_S = 15.0
ENDS_TIMEOUT_S = 10.0
OPEN_TIMEOUT_S = 30.0
# Of a campaign: what has to be paid between two rounds, and how long that may take.
PAID_BETWEEN = 5
PAID_BETWEEN_TIMEOUT_S = 30.0
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to do. `kills` asks for a campaign of so many instead of `duration_s`."""

    home: Path
    seed: int
    duration_s: float
    clients: int
    think_s: float
    kills: int = 0


class Bank:
    """See the module's docstring."""

    def __init__(self, options: Options, tell: Tell) -> None:
        self._options = options
        self._tell = tell
        self._history = History()
        library = find_library()
        clocks = Clocks(library, options.home / "clocks") if library else None
        self._left_out = [] if library else ["wall clocks stay: libfaketime is not installed"]
        self._left_out += [
            "etcd's clock stays: a Go program asks the kernel",
            "links are cut by proxies, not in the kernel; a client's links are those to etcd",
            "I8: there are no notifications yet",
        ]
        processes = min(CLIENT_PROCESSES, options.clients)
        self._rig = Rig(options.home, clocks=clocks, clients=processes)
        self._crowd = Crowd(
            options.home,
            lambda name: self._rig.network.to_etcd(name, self._rig.etcd),
            processes=processes,
            clients=options.clients,
            seed=options.seed,
            think_s=options.think_s,
        )
        self._nemesis = Nemesis(self._rig, self._crowd)
        self._monitor = Monitor(
            self._rig, self._crowd, self._history, lambda: not self._nemesis.record.active
        )
        options.home.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(options.home / "bank.jsonl", self._history)
        self._findings = Findings()
        self._before: dict[str, Taken] = {}
        self._started_s = 0.0
        self._loads = [os.getloadavg()[0]]

    async def run(self) -> tuple[Run, Story]:
        """The whole story. Raises LauncherError when the mesh does not come up."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._rig)
            await self._open_accounts()
            self._crowd.start()
            stack.push_async_callback(self._crowd.close)
            self._monitor.start()
            stack.push_async_callback(self._monitor.close)
            await self._warm_up()
            self._started_s = time.monotonic()
            progress = asyncio.ensure_future(self._show_progress())
            try:
                await self._under_fire()
                faults_end_s = self._last_fault_s()
                settled_s, answered_s = await self._converge(faults_end_s)
                await self._pay_once_more()
            finally:
                progress.cancel()
            ended_s = time.monotonic()
            await self._check_processes()
            await self._check_books()
        run = self._run(faults_end_s, settled_s, answered_s)
        return run, self._story(ended_s, faults_end_s)

    async def _open_accounts(self) -> None:
        """Users, accounts and what they have to begin with; in the history as everything is."""
        payer = Payer(self._options.home, self._rig.etcd)
        mesh = payer.mesh
        for currency in ACCOUNTS_BY_CURRENCY:
            await mesh.ledger.CreateAccount(
                ledger_service_pb2.CreateAccountRequest(
                    account_id=bank(currency), currency_code=currency, limit_minor=BANK_LIMIT_MINOR
                ),
                timeout=OPEN_TIMEOUT_S,
                wait_for_ready=True,
            )
        for holder in HOLDERS:
            user = wallet_service_pb2.CreateUserRequest(
                user_id=holder.user_id,
                payment_password=PASSWORD,
                currency_code=holder.currency,
                idempotency_key="open",
            )
            await mesh.wallet.CreateUser(user, timeout=OPEN_TIMEOUT_S, wait_for_ready=True)
            if await self._ask(payer, funding(holder)) is not Heard.COMMITTED:
                raise RuntimeError(f"{holder} could not be given anything")
        await payer.close()

    async def _ask(self, payer: Payer, request: Request) -> Heard:
        attempt = self._journal.attempt(request)
        attempt.heard, attempt.txn_id, attempt.why = await payer.ask(request, OPEN_TIMEOUT_S)
        self._journal.heard(attempt)
        return attempt.heard

    async def _pay_once_more(self) -> None:
        """I5: the next payment goes through, and brings every END that waits for its group."""
        payer = Payer(self._options.home, self._rig.etcd)
        heard = await self._ask(payer, funding(HOLDERS[0], "last"))
        await payer.close()
        self._findings.check("I5", heard is Heard.COMMITTED, f"the next payment was {heard}")
        (last,) = self._history.attempts[funding(HOLDERS[0], "last").key]
        until_s = time.monotonic() + ENDS_TIMEOUT_S
        while left := set((await self._monitor.books()).endless()) - {last.txn_id}:
            if time.monotonic() > until_s:
                break
            await asyncio.sleep(LOOK_S)
        self._findings.check("I5", not left, f"commits without an end: {left}")

    async def _warm_up(self) -> None:
        """Until every client has paid, on the average, more than once."""
        wanted = WARM_UP_PAYMENTS_PER_CLIENT * self._options.clients
        if not await until(lambda: self._monitor.paid >= wanted, WARM_UP_TIMEOUT_S):
            raise RuntimeError(f"only {self._monitor.paid} payments before any fault")
        self._before = {name: has for name, has in self._monitor.taken().items() if has}

    async def _under_fire(self) -> None:
        options = self._options
        if options.kills:
            await self._campaign()
            return
        faults = schedule(
            options.seed, options.duration_s, self._rig.cast, clocks=self._rig.clocks is not None
        )
        await self._nemesis.run(faults)

    async def _campaign(self) -> None:
        """Rounds of kills; each begins when enough was paid after the one before."""
        started_s = time.monotonic()
        for each in campaign(self._options.seed, self._options.kills, self._rig.cast):
            round_s = time.monotonic()
            for delay_s, victim in each.kills:
                await asyncio.sleep(max(0.0, round_s + delay_s - time.monotonic()))
                at_s = time.monotonic() - started_s
                self._nemesis.begin(Fault(Kind.KILL, (victim,), at_s))
            wanted = self._monitor.paid + PAID_BETWEEN
            await until(lambda: self._monitor.paid >= wanted, PAID_BETWEEN_TIMEOUT_S)  # noqa: B023
        await self._nemesis.healed()

    def _last_fault_s(self) -> float:
        """A kill is over at once; that its victim comes back is part of converging."""
        return max(
            done.began_s if done.fault.kind is Kind.KILL else done.ended_s or done.began_s
            for done in self._nemesis.record.done
        )

    async def _converge(self, faults_end_s: float) -> tuple[float | None, float | None]:
        """Seconds until the books were quiet, and until all clients were answered."""
        ended = asyncio.ensure_future(self._crowd.end())
        settled_s = None
        while time.monotonic() < faults_end_s + SETTLE_TIMEOUT_S:
            try:
                books = await self._monitor.books()
            except sqlite3.OperationalError:
                continue
            if ended.done() and not books.unfinished() and self._rig.serving():
                settled_s = time.monotonic() - faults_end_s
                break
            await asyncio.sleep(LOOK_S)
        in_time = await ended
        self._monitor.read_journals()
        committed, aborted = final_times(self._history)
        last_s = max([faults_end_s, *committed, *aborted])
        return settled_s, (last_s - faults_end_s if in_time else None)

    async def _check_processes(self) -> None:
        """I9, after everything had the time to be given back."""
        until_s = time.monotonic() + CALM_DOWN_TIMEOUT_S
        while True:
            now = self._monitor.taken()
            back = all(
                (has := now.get(name)) and not too_much(had, has)
                for name, had in self._before.items()
            )
            if back or time.monotonic() > until_s:
                break
            await asyncio.sleep(LOOK_S)
        check_taken(self._findings, self._before, now)
        home = self._rig.settings.home
        supervisor = home.log("supervisor").read_text(errors="replace").splitlines()
        check_ends(self._findings, supervisor, self._rig.killed)
        for failure in self._crowd.failures:
            self._findings.check("I9", False, failure)
        for process in self._rig.processes():
            lines = home.log(process.name).read_text(errors="replace").splitlines()
            check_logs(self._findings, process.name, lines)

    async def _check_books(self) -> None:
        self._monitor.read_journals()
        found = await asyncio.to_thread(check, self._history, await self._monitor.books())
        probes = [each.since(self._started_s) for each in self._monitor.probes]
        judge(self._findings, probes, self._spans(), self._rig.cast)
        for each in (found, self._monitor.watch.found):
            self._findings.add(each)

    def _spans(self) -> list[Span]:
        return [
            Span(
                done.fault,
                done.began_s - self._started_s,
                None if done.ended_s is None else done.ended_s - self._started_s,
            )
            for done in self._nemesis.record.done
        ]

    def _run(self, faults_end_s: float, settled_s: float | None, answered_s: float | None) -> Run:
        record, history = self._nemesis.record, self._history
        committed, aborted = final_times(history)
        run = Run(
            seed=self._options.seed,
            lasted_s=faults_end_s - self._started_s,
            payments=len(committed),
            refused=len(aborted),
            attempts=sum(len(each) for each in history.attempts.values()),
            faults=len(record.done),
            kinds=Counter(done.fault.kind.value for done in record.done),
            kills=record.kills,
            missed=record.missed,
            paced=not self._options.kills,
            longest_calm_s=longest_calm_s(
                [done.began_s for done in record.done], self._started_s, faults_end_s
            ),
            books_settled_s=settled_s,
            answered_s=answered_s,
            load=fmean(self._loads),
            snapshots=self._monitor.watch.snapshots,
            oldest_in_doubt_s=self._monitor.watch.oldest_s,
            cast=self._rig.cast,
            left_out=self._left_out,
            findings=self._findings,
        )
        finish(run)
        return run

    def _story(self, ended_s: float, faults_end_s: float) -> Story:
        started_s = self._started_s
        committed, aborted = final_times(self._history)
        return Story(
            title=f"bank under fire, seed {self._options.seed}: payments per second, and faults",
            duration_s=ended_s - started_s,
            committed_s=[at_s - started_s for at_s in committed if at_s >= started_s],
            aborted_s=[at_s - started_s for at_s in aborted if at_s >= started_s],
            spans=self._spans(),
            lanes=[
                Victim(role, number).name
                for role, count in self._rig.cast.items()
                for number in range(count)
            ],
            faults_end_s=faults_end_s - started_s,
        )

    async def _show_progress(self) -> None:
        paid, said_s = self._monitor.paid, time.monotonic()
        while True:
            await asyncio.sleep(1)
            now_s, record = time.monotonic(), self._nemesis.record
            rate = (self._monitor.paid - paid) / (now_s - said_s)
            paid, said_s = self._monitor.paid, now_s
            active = "; ".join(map(str, record.active)) or "nothing is broken"
            self._loads.append(os.getloadavg()[0])
            violations = self._monitor.watch.found.total
            self._tell(
                f"{now_s - self._started_s:5.0f} s  {paid} paid ({rate:.0f}/s)"
                f"  {len(record.done)} faults, {record.kills.total()} kills"
                f"  {self._monitor.watch.in_doubt} in doubt"
                f"  {violations} violations  {active}"
            )
