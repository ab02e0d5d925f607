"""What a seed stands for: the requests, the faults, and how bad network and disks are.

A plan is plain data, drawn before anything runs, so that a failing history can be shrunk
by leaving things out of its plan. Each plan draws which kinds of faults there are at all
(Groce et al., "Swarm Testing", 2012): what is always everywhere hides what needs peace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from tests.sim.books import Step
from txn import crash_point as at

BANKS = ("north", "south")
PARTICIPANTS = (*BANKS, "shop")
# The service, and its log; see `Plan.coordinators` for the programs.
COORDINATOR = "coordinator"
# The caller who pays when the weather is good again.
PROBE = "probe"
ACCOUNTS_EACH = 3
CRASH_POINTS = {
    True: (at.BEFORE_DECISION, at.AFTER_DECISION, at.BEFORE_CLAIM, at.AFTER_CLAIM, at.BEFORE_CLOSE),
    False: (at.AFTER_VOTE, at.AFTER_APPLY, at.AFTER_PERFORM),
}
# Marks the effects that have no other side in the books.
ALONE = "alone"
CLIENTS = 4
# Single branches that nothing comes of: to read, of an account that is not there, of a verb that
# is not known, and where the resource has a defect.
ONCE_IN_A_WHILE = ("look", "nobody", "steal", "break")

KINDS = (
    "kill",
    "kill-step",
    "kill-force",
    "kill-point",
    "kill-all",
    "drain",
    "pause",
    "slow",
    "cut",
    "full",
    "force-fails",
    "group-lost",
    "no-turn",
    "slow-disk",
    "clock",
    "storm",
    "stray",
    # Of several coordinators: one ends the epoch of another that may live, and nobody hears
    # anything from the registry.
    "usurp",
    "etcd",
)
# What is on its disk cannot be read by one process. Drawn apart from the others.
BLIND = "blind"
# Somebody forces what does not get on. Drawn apart, too.
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. `number` is a count, or seconds for a clock."""

    kind: str
    at_s: float
    target: str
    for_s: float
    number: int = 0
    other: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One branch that a caller asks for."""

    branch_id: str
    participant: str
    step: Step


@dataclass(frozen=True, slots=True)
class Wish:
    """One client that wants one thing; another wish may have the same caller and key."""

    at_s: float
    client: str
    caller: str
    key: str
    parts: tuple[Part, ...]
    wait_s: float = 2.0
    for_applied: bool = True
    in_batch: bool = False
    # Seconds after which it goes away, whatever it has heard.
    patience_s: float = 60.0
    # How often it asks again although it knows the outcome.
    asks_again: int = 0

    @property
    def name(self) -> tuple[str, str]:
        """What the coordinator knows it by."""
        return self.caller, self.key


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad network and disks are, as chances of each message and seconds on average."""

    loss: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    delay_s: float = 0.001
    force_s: float = 0.001
    # Between what a read sees, and when it is heard.
    read_s: float = 0.0
    # Of the batches, how many are taken apart.
    apart: float = 0.0
    # Of the calls that are given up, how many are cancelled at the other side.
    cancels: float = 0.5
    # Of the messages to a dead process, how many are refused at once.
    refused: float = 0.7
    # How often a way to a participant is open to a replica that knows no single phase.
    old: float = 0.0
    # Between the arrival of the answer to an inquiry, and when it is heard.
    heard_s: float = 0.0


CALM = Weather()


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of coordinator and inquirers; see CoordinatorConfig and InquiryConfig."""

    batch_size_max: int = 256
    max_active: int = 10_000
    prepare_timeout_s: float = 8.0
    attempt_timeout_s: float = 2.0
    abort_attempts: int = 5
    gather_max_s: float = 0.005
    inquiry_s: float = 2.0
    inquiry_batch_max: int = 500
    # Of LogKeeperConfig and ForgetterConfig.
    housekeeping_s: float = 60.0
    housekeeping_rows: int = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a seed stands for, but for the choices made on the way."""

    seed: int
    safety_s: float
    replicas: int
    coordinators: tuple[str, ...]
    limits: Limits
    weather: Weather
    wishes: tuple[Wish, ...]
    faults: tuple[Fault, ...]
    # How many transactions there were more than a week ago, see past.py.
    old: int = 0

    def without(self, wishes: frozenset[int], faults: frozenset[int], calm: frozenset[str]) -> Plan:
        """The same plan with some wishes, faults and kinds of bad weather left out."""
        return replace(
            self,
            wishes=tuple(w for at, w in enumerate(self.wishes) if at not in wishes),
            faults=tuple(f for at, f in enumerate(self.faults) if at not in faults),
            weather=replace(self.weather, **{name: getattr(CALM, name) for name in sorted(calm)}),
        )

    def nodes(self) -> tuple[str, ...]:
        """The names of all processes, clients aside."""
        return (
            *self.coordinators,
            *(f"{name}-{n}" for name in PARTICIPANTS for n in range(self.replicas)),
        )


def accounts(bank: str) -> list[str]:
    """The accounts of a bank; the first may be overdrawn."""
    return [f"{bank}.{number}" for number in range(ACCOUNTS_EACH)]


def coordinators(count: int) -> tuple[str, ...]:
    """The names of so many."""
    return tuple(f"{COORDINATOR}-{number}" for number in range(count))


def plan_of(seed: int, several: int = 0) -> Plan:
    """Draws the plan of a seed, with one or two coordinators unless `several` says how many."""
    rng = Random(f"plan/{seed}")
    replicas = rng.choice((1, 1, 2))
    count = rng.choice((1, 2))
    safety_s = rng.choice((2.0, 5.0, 5.0, 10.0, 20.0))
    names = coordinators(several or count)
    plan = Plan(seed, safety_s, replicas, names, _limits(rng), _weather(rng), (), ())
    plan = replace(plan, wishes=_wishes(rng, safety_s))
    plan = _with_past(replace(plan, faults=_faults(rng, plan)))
    return _with_operators(_with_blindness(plan))


def _limits(rng: Random) -> Limits:
    return Limits(
        batch_size_max=rng.choice((1, 2, 5, 256, 256)),
        max_active=rng.choice((2, 10_000, 10_000, 10_000)),
        prepare_timeout_s=rng.choice((0.5, 1.5, 8.0, 8.0)),
        attempt_timeout_s=rng.choice((0.2, 0.5, 2.0)),
        abort_attempts=rng.choice((1, 2, 5)),
        gather_max_s=rng.choice((0.0, 0.005, 0.05)),
        inquiry_s=rng.choice((0.3, 1.0, 2.0)),
        inquiry_batch_max=rng.choice((1, 2, 500)),
    )


def _with_past(plan: Plan) -> Plan:
    """With something to forget, or not; drawn apart, so that all else is as it was."""
    # With answers about what was forgotten since, or not.
    heard_s = Random(f"heard/{plan.seed}").choice((0.0, 0.0, 0.0, 1.0))
    rng = Random(f"old/{plan.seed}")
    limits = replace(
        plan.limits,
        housekeeping_s=rng.choice((0.5, 1.0, 2.0)),
        housekeeping_rows=rng.choice((3, 4, 64)),
    )
    weather = replace(plan.weather, heard_s=heard_s)
    return replace(plan, limits=limits, weather=weather, old=rng.choice((0, 1, 3, 8)))


def _with_blindness(plan: Plan) -> Plan:
    """With somebody who cannot read, or not; drawn apart, too."""
    rng = Random(f"blind/{plan.seed}")
    faults = list(plan.faults)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        blind = replace(_fault(rng, BLIND, plan), for_s=rng.choice((0.5, 2.0, 8.0)), other="")
        faults.append(blind)
        others = [name for name in plan.coordinators if name != blind.target]
        if blind.target in plan.coordinators and others and rng.random() < 0.7:
            # Of whose next epoch it cannot know.
            at_s, down_s = blind.at_s + rng.random() * 0.2, rng.random() * 0.2
            faults.append(Fault("kill", at_s, rng.choice(others), down_s))
    return replace(plan, faults=_in_order(faults))


def _with_operators(plan: Plan) -> Plan:
    """With operators who force things, or not; drawn apart, too."""
    rng = Random(f"operator/{plan.seed}")
    forces = [
        Fault(OPERATOR, _early_s(rng, plan), rng.choice(plan.coordinators), 0.0, rng.randrange(40))
        for _ in range(rng.choice((0, 0, 0, 1, 4)))
    ]
    return replace(plan, faults=_in_order([*plan.faults, *forces]))


def _weather(rng: Random) -> Weather:
    def sometimes(*values: float) -> float:
        return rng.choice((0.0, *values))

    return Weather(
        loss=sometimes(0.0, 0.02, 0.1, 0.3),
        twice=sometimes(0.05, 0.2, 0.5),
        late=sometimes(0.0, 0.02, 0.1),
        delay_s=rng.choice((0.000_2, 0.001, 0.001, 0.01, 0.1)),
        force_s=rng.choice((0.000_5, 0.001, 0.005, 0.05)),
        read_s=sometimes(0.0, 0.02, 0.5),
        apart=sometimes(0.3, 1.0),
        cancels=rng.choice((0.0, 0.5, 1.0)),
        refused=rng.choice((0.0, 0.7, 1.0)),
        old=rng.choice((0.0, 0.0, 0.3, 1.0)),
    )


def _wishes(rng: Random, safety_s: float) -> tuple[Wish, ...]:
    wishes: list[Wish] = []
    bunched = rng.random() < 0.5
    # Few, so that a failure is short; and sometimes many, so that batches and groups grow.
    for number in range(rng.randrange(3, 13) if rng.random() < 0.95 else 60):
        at_s = rng.random() * (0.01 if bunched and rng.random() < 0.7 else safety_s * 0.7)
        wish = Wish(
            at_s=at_s,
            client=_client(rng),
            caller=rng.choice(("ann", "ann", "bob")),
            key=f"k{number}",
            parts=(),
            wait_s=rng.choice((0.2, 1.0, 5.0)),
            for_applied=rng.random() < 0.6,
            in_batch=rng.random() < 0.3,
            patience_s=rng.choice((0.1, 3.0, 60.0, 60.0)),
            asks_again=rng.choice((0, 0, 1, 3)),
        )
        wish = replace(wish, parts=_parts(rng, f"{wish.caller}/{wish.key}#0"))
        wishes.append(wish)
        if rng.random() < 0.3:
            # The same from elsewhere.
            wishes.append(_elsewhere(rng, wish))
        if rng.random() < 0.1:
            # Another thing under the same key.
            parts = _parts(rng, f"{wish.caller}/{wish.key}#1")
            wishes.append(replace(_elsewhere(rng, wish), parts=parts))
        if rng.random() < 0.1 and wish.caller == "ann":
            # The same key of another caller.
            other = replace(_elsewhere(rng, wish), caller="bob")
            wishes.append(replace(other, parts=_parts(rng, f"bob/{wish.key}#0")))
    wishes.sort(key=lambda wish: wish.at_s)
    return tuple(wishes)


def _elsewhere(rng: Random, wish: Wish) -> Wish:
    return replace(
        wish,
        at_s=wish.at_s + rng.choice((0.0, 0.005, 0.5, 3.0)) * rng.random(),
        client=_client(rng),
        for_applied=rng.random() < 0.6,
        in_batch=rng.random() < 0.3,
    )


def _client(rng: Random) -> str:
    return f"client-{rng.randrange(CLIENTS)}"


def _parts(rng: Random, effect: str) -> tuple[Part, ...]:
    return (_part(rng, effect + ALONE),) if rng.random() < 0.33 else _several(rng, effect)


def _part(rng: Random, effect: str) -> Part:
    """The only branch of a transaction: money comes from outside, or goes there."""
    bank = rng.choice(BANKS)
    account = f"{bank}.{rng.randrange(ACCOUNTS_EACH)}"
    amount_minor = rng.choice((1, 10, 40, 60, 90))
    verb = rng.choice(("debit",) * 5 + ("credit",) * 3 + ("pay",) * 3 + ONCE_IN_A_WHILE)
    if verb == "pay":
        return Part("trade", "shop", Step("pay", f"trade{rng.randrange(4)}", 0, effect))
    if verb == "nobody":
        return Part("nobody", bank, Step("credit", "nobody", 1, effect))
    return Part("only", bank, Step(verb, account, amount_minor, effect))


def _several(rng: Random, effect: str) -> tuple[Part, ...]:
    amount_minor = rng.choice((1, 10, 40, 60, 90))
    source, target = rng.choice((BANKS, BANKS[::-1], (BANKS[0], BANKS[0])))
    debited, credited = rng.sample(range(ACCOUNTS_EACH), 2)
    parts = [
        Part("from", source, Step("debit", f"{source}.{debited}", amount_minor, effect)),
        Part("to", target, Step("credit", f"{target}.{credited}", amount_minor, effect)),
    ]
    if rng.random() < 0.4:
        trade = f"trade{rng.randrange(4)}"
        parts.append(Part("trade", "shop", Step("pay", trade, 0, effect)))
    if rng.random() < 0.15:
        parts.append(Part("look", target, Step("look", f"{target}.0", 0, effect)))
    if rng.random() < 0.06:
        parts.append(Part("nobody", target, Step("credit", "nobody", 1, effect)))
    if rng.random() < 0.04:
        parts.append(Part("bad", target, Step("steal", f"{target}.0", 1, effect)))
    if rng.random() < 0.03:
        parts.append(Part("defect", target, Step("break", f"{target}.0", 1, effect)))
    if rng.random() < 0.04:
        # Nothing to commit anywhere.
        parts = [Part("look", target, Step("look", f"{target}.0", 0, effect))]
    rng.shuffle(parts)
    return tuple(parts)


def _faults(rng: Random, plan: Plan) -> tuple[Fault, ...]:
    kinds = rng.sample(KINDS, rng.choice((0, 1, 2, 3, 5, len(KINDS))))
    if not kinds:
        return ()
    faults = [_fault(rng, rng.choice(kinds), plan) for _ in range(rng.randrange(1, 9))]
    # A clock that was moved shows when the program starts again.
    faults += [replace(each, kind="kill") for each in faults if each.kind == "clock"]
    return _in_order(faults)


def _in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _fault(rng: Random, kind: str, plan: Plan) -> Fault:
    nodes = plan.nodes()
    # The coordinator is one among many, and the one that matters most.
    target = rng.choice(plan.coordinators if rng.random() < 0.4 else nodes)
    other = rng.choice([name for name in nodes if name != target])
    at_s = _early_s(rng, plan)
    for_s = min(rng.expovariate(1.0), 8.0)
    number = rng.randrange(1, 40)
    if kind == "kill-point":
        other = rng.choice(CRASH_POINTS[target in plan.coordinators])
        number = rng.randrange(1, 6)
    elif kind == "kill-force":
        number = rng.randrange(1, 8)
    elif kind == "kill-step":
        number = rng.randrange(1, 400)
    elif kind in ("force-fails", "group-lost", "no-turn"):
        number = rng.randrange(1, 3)
    elif kind == "clock":
        number = rng.choice((-3600, -600, -1, 1, 600, 3600))
    return Fault(kind, at_s, target, for_s, number, other)


def _early_s(rng: Random, plan: Plan) -> float:
    """Much goes on at the beginning."""
    return plan.safety_s * rng.random() * rng.choice((0.05, 0.3, 0.9))
