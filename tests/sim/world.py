"""One history: the programs, the network, the disks, and what goes wrong between them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from traceback import format_exception
from typing import Any

from tests.sim.books import INITIAL_MINOR, Account, Defect, Step
from tests.sim.clients import Client
from tests.sim.disk import Disk
from tests.sim.hosts import UTC_US, CoordinatorHost, Host, ParticipantHost
from tests.sim.loop import Process, SimLoop
from tests.sim.nemesis import Nemesis
from tests.sim.network import Network
from tests.sim.oracle import Oracle, Violation
from tests.sim.past import Remembering, lay_down
from tests.sim.plan import (
    BANKS,
    CALM,
    COORDINATOR,
    PARTICIPANTS,
    PROBE,
    Part,
    Plan,
    Wish,
    accounts,
)
from tests.sim.registry import Registry
from txn.state import Outcome
from txn.testing import Tables

# After the last fault everything is final within this time, see `final_s`.
FINAL_S = 30.0
_LOOK_S = 0.25
_OVERDRAFT_MINOR = -50
# How long a dead process stays dead when the fault does not say.
_DOWN_S = 0.5


# What the threads of a killed process had begun is all done, or none of it.
LANDED = "landed"
LOST = "lost"


@dataclass
class Report:
    """What came of one history."""

    plan: Plan
    violation: Violation | None = None
    committed: int = 0
    aborted: int = 0
    crashes: int = 0
    steps: int = 0
    lasted_s: float = 0.0
    # The same seed leaves the same behind; see `World.run`.
    mark: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    events: list[tuple[Any, ...]] = field(default_factory=list)

    def digest(self) -> str:
        """A hash of everything that happened, in order."""
        digest = hashlib.sha256()
        for event in self.events:
            digest.update(repr(event).encode())
        return digest.hexdigest()


class World:
    """See the module's docstring."""

    def __init__(self, plan: Plan, *, outside: bool) -> None:
        self.plan = plan
        self.seed = plan.seed
        self.limits = plan.limits
        self.report = Report(plan)
        # What a loop has beyond this concerns sockets, signals and processes.
        self.loop = SimLoop(  # type: ignore[abstract]
            Random(f"loop/{plan.seed}"), self._job_s
        )
        self.loop.on_error = self._on_error
        self._past = Remembering(self.note, self.see, outside=outside)
        self.oracle: Oracle = self._past
        self.watcher = self.oracle
        self.network = Network(self.loop, plan.seed, plan.weather, self.note)
        self.registry = Registry(lambda: self.loop.now_s, self.network.cuts)
        self._rng = Random(f"world/{plan.seed}")
        self._disk_rng = Random(f"disk/{plan.seed}")
        self.disks: dict[str, Disk] = {}
        self.slow_s: dict[str, float] = {}
        self.hosts: dict[str, Host] = {}
        self._replicas: dict[str, str] = {}
        self.healed = False
        self._over = False
        for name in (COORDINATOR, *PARTICIPANTS):
            self._add_service(name)
        tables = {name: disk.tables for name, disk in self.disks.items()}
        lay_down(tables, plan.seed, plan.old, UTC_US)
        self._past.remember(tables[COORDINATOR], UTC_US)
        self._nemesis = Nemesis(self)

    def run(self) -> Report:
        """Runs the whole history."""
        with _listening(self.oracle):
            history = self.loop.create_task(self._history(), context=self.loop.world.context)
            history.add_done_callback(self.ended)
            self.loop.run(lambda: self._over or self.oracle.violation is not None)
            self.loop.throw_away()
        report = self.report
        report.violation = self.oracle.violation
        outcomes = self.oracle.outcomes()
        report.committed = outcomes.count(Outcome.COMMITTED)
        report.aborted = outcomes.count(Outcome.ABORTED)
        report.steps, report.lasted_s = self.loop.steps, self.loop.now_s
        report.mark = self._rng.getrandbits(32) ^ self.loop.steps ^ len(report.events)
        return report

    def note(self, *what: Any) -> None:
        """One line of the trace."""
        self.report.events.append((self.loop.now_s, *what))

    def see(self, what: str) -> None:
        """Counts that something worth happening has happened."""
        self.report.seen[what] += 1

    def ended(self, task: asyncio.Task[None]) -> None:
        """A program, or a part of the simulator, must not fail."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.oracle.fail("I9", f"{error!r} {''.join(format_exception(error)[-3:])}")

    def replica(self, participant: str) -> str:
        """The same as before, most of the time."""
        chosen = self._replicas.get(participant)
        if chosen is None or self._rng.random() < 0.1 or self.hosts[chosen].process is None:
            number = self._rng.randrange(self.plan.replicas)
            chosen = self._replicas[participant] = f"{participant}-{number}"
        return chosen

    def coordinator(self) -> str:
        """Any of them."""
        return self._rng.choice(self.plan.coordinators)

    def killed(self, host: Host, why: str, down_s: float = _DOWN_S, threads: str = "") -> None:
        """See WorldParts.killed; `threads` is LANDED or LOST, and otherwise each as it falls."""
        process = host.process
        if process is None:
            return
        self.report.crashes += 1
        self.note("dies", host.name, why)
        self.see(f"dies {why.partition(' ')[0]}")
        host.process = None
        self.loop.kill(process, lambda: _landed(threads, self._disk_rng))
        if host.disk.turn is process:
            host.disk.turn = None
        self.loop.call_later(
            0.01 if self.healed else down_s, self.starts, host, context=self.loop.world.context
        )

    def starts(self, host: Host) -> None:
        """A new life, unless it lives."""
        if host.process is None:
            self.note("starts", host.name)
            host.start()

    def _add_service(self, name: str) -> None:
        oracle = self.oracle

        def watch(before: Tables, after: Tables) -> None:
            if name == COORDINATOR:
                oracle.log_forced(before, after)
            else:
                oracle.participant_forced(name, before, after)

        disk = self.disks[name] = Disk(name, Random(f"disk/{self.seed}/{name}"), watch)
        if name == COORDINATOR:
            oracle.writing = lambda: disk.writer
        if name in BANKS:
            disk.tables = {
                "account": {
                    account: Account(INITIAL_MINOR, 0 if at else _OVERDRAFT_MINOR)
                    for at, account in enumerate(accounts(name))
                }
            }
        if name == COORDINATOR:
            for coordinator in self.plan.coordinators:
                self._add_host(CoordinatorHost(coordinator, self, disk))
            return
        oracle.books[name] = disk.tables
        for number in range(self.plan.replicas):
            self._add_host(ParticipantHost(f"{name}-{number}", self, disk))

    def _add_host(self, host: Host) -> None:
        self.hosts[host.name] = self.network.hosts[host.name] = host

    async def _history(self) -> None:
        plan = self.plan
        for host in self.hosts.values():
            self.starts(host)
        self._nemesis.start(plan.faults)
        for wish in plan.wishes:
            self._wants(wish)
        await asyncio.sleep(plan.safety_s)
        self._heal()
        limit_s = final_s(self.plan)
        problem = await self._everything_final(limit_s)
        if problem:
            self.oracle.fail("I5", f"{limit_s} s after the last fault: {problem}")
        self.oracle.check_final()
        self._over = True

    def _wants(self, wish: Wish) -> Client:
        client = Client(
            wish,
            self.plan.coordinators,
            loop=self.loop,
            network=self.network,
            oracle=self.oracle,
        )
        process = self._client_process(wish.client)
        task = self.loop.create_task(client.run(), context=process.context)
        task.add_done_callback(self.ended)
        return client

    def _client_process(self, name: str) -> Process:
        host = self.network.hosts.get(name)
        if host is None:
            host = self.network.hosts[name] = _ClientHost(Process(name))
        assert host.process is not None
        return host.process

    def _heal(self) -> None:
        self.note("heals")
        self.healed = True
        self.network.weather = CALM
        self.network.cuts.clear()
        self.slow_s.clear()
        self._nemesis.stop()
        for disk in self.disks.values():
            disk.full, disk.failing, disk.losing, disk.refusing = False, 0, 0, 0
        for host in self.hosts.values():
            if host.process is None:
                self.starts(host)

    async def _everything_final(self, limit_s: float) -> str:
        """Waits until everything is; returns what is not."""
        until_s = self.loop.now_s + limit_s
        distinct = {(wish.name, wish.parts): wish for wish in self.plan.wishes}
        clients = [
            self._wants(_once_more(wish, self.loop.now_s, limit_s)) for wish in distinct.values()
        ]
        probes = 0
        probe: Client | None = None
        while True:
            await asyncio.sleep(_LOOK_S)
            left = [f"{c.wish.name} is not answered" for c in clients if c.outcome is None]
            left += self.oracle.still_open()
            if self.network.under_way:
                left.append("messages are under way")
            if not left:
                # Somebody pays again, twice: so that the ends that wait for company go too.
                if probe is None or (probe.outcome is not None and probes < 2):
                    probes += 1
                    probe = self._wants(_probe(probes, self.loop.now_s, limit_s))
                if probe.outcome is None:
                    left.append("a payment in good weather is not answered")
                elif probe.outcome is not Outcome.COMMITTED:
                    return f"a payment in good weather is {probe.outcome!r}"
                left += self.oracle.without_end()
                left += self._past.kept_too_long()
                if probes == 2 and not left:
                    return ""
            if self.loop.now_s >= until_s:
                return "; ".join(left[:4])

    def _job_s(self, process: Process, name: str) -> tuple[float, float]:
        """What a thread takes, and what it takes to say so; a force takes longest."""
        host = self.hosts[process.name]
        force_s = CALM.force_s if self.healed else self.plan.weather.force_s
        if name == "_read":
            slow_s = 0.0 if self.healed else self.plan.weather.read_s
            return self._disk_rng.random() * force_s, self._disk_rng.random() * slow_s
        if name != "commit":
            return self._disk_rng.random() * 0.000_5, 0.0
        takes_s = self._disk_rng.expovariate(1.0) * force_s + self.slow_s.get(host.disk.name, 0.0)
        if host.dies_at_force:
            host.dies_at_force -= 1
            if not host.dies_at_force:
                at_s = takes_s * self._disk_rng.random()
                self.loop.call_later(
                    at_s, self.killed, host, "in a force", context=self.loop.world.context
                )
        return takes_s, 0.0

    def _on_error(self, context: dict[str, Any]) -> None:
        if "never retrieved" not in context["message"]:
            self.oracle.fail("I9", f"{context['message']}: {context.get('exception')!r}")


def final_s(plan: Plan) -> float:
    """After the last fault everything is final within this time.

    That of a calm coordinator, and what waits behind defects: a resource with a defect does not
    vote, so that its transaction has one of the `max_active` places for `prepare_timeout_s`.
    """
    defects = {
        (wish.name, wish.parts)
        for wish in plan.wishes
        if any(part.step.verb == "break" for part in wish.parts)
    }
    rounds = len(defects) // plan.limits.max_active
    return FINAL_S + rounds * plan.limits.prepare_timeout_s


def _landed(threads: str, rng: Random) -> bool:
    return rng.random() < 0.5 if threads not in (LANDED, LOST) else threads == LANDED


class _ClientHost:
    """A client, which is never killed: it goes away by itself."""

    def __init__(self, process: Process) -> None:
        self.process: Process | None = process


def _once_more(wish: Wish, at_s: float, limit_s: float) -> Wish:
    return replace(
        wish,
        at_s=at_s,
        client="finisher",
        wait_s=5.0,
        for_applied=True,
        in_batch=False,
        patience_s=2 * limit_s,
        asks_again=0,
    )


def _probe(number: int, at_s: float, limit_s: float) -> Wish:
    effect = f"{PROBE}/p{number}#0"
    parts = (
        Part("from", BANKS[0], Step("debit", f"{BANKS[0]}.0", 0, effect)),
        Part("to", BANKS[1], Step("credit", f"{BANKS[1]}.0", 0, effect)),
        Part("trade", "shop", Step("pay", f"probe{number}", 0, effect)),
    )
    wish = Wish(at_s, "finisher", PROBE, f"p{number}", parts)
    return _once_more(wish, at_s, limit_s)


class _Listener(logging.Handler):
    """What the engine itself calls an error is one."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__(logging.ERROR)
        self._oracle = oracle

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Defect):
            self._oracle.see("defect in a resource")
        elif message.startswith("ALARM"):
            self._oracle.alarm(message)
        else:
            self._oracle.fail("I9", f"{message}: {error!r}")


@contextmanager
def _listening(oracle: Oracle) -> Iterator[None]:
    with ExitStack() as stack:
        for name in ("txn", "services"):
            stack.enter_context(_heard(logging.getLogger(name), _Listener(oracle)))
        yield


@contextmanager
def _heard(logger: logging.Logger, listener: logging.Handler) -> Iterator[None]:
    before = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def run(plan: Plan, *, outside: bool = False) -> Report:
    """Runs one history; with `outside` it is judged by what can be seen from there."""
    return World(plan, outside=outside).run()
