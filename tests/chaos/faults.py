"""Which faults, on whom and when: drawn from a seed before anything runs. Pure but for `random`.

A schedule never leaves more than GAP_MAX_S + QUIET_END_S without a new fault, and kills every role
before it kills one twice. A campaign is rounds of kills and nothing else; when each of
them begins is up to the mesh, which has to pay again in between.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

GAP_MIN_S = 1.5
GAP_MAX_S = 4.2
# So many faults at least, however short the run.
FAULTS_MIN = 14
FIRST_S = 1.0
# Every fault is over by then, counted back from the end.
QUIET_END_S = 0.5
SEVERAL_SHARE = 0.3
KILL_SHARE = 0.4
ROUND_VICTIMS = (3, 8)
ROUND_STAGGER_S = 1.5


class Kind(StrEnum):
    """What is done to a process, or to its links."""

    KILL = "kill -9"
    STOP = "stop"
    """SIGSTOP, and SIGCONT when it is over."""
    CUT = "cut off"
    """Its connections break, and new ones are refused: to it, and from it to etcd."""
    SILENCE = "silence"
    """Its connections stay, and nothing comes through."""
    DEAF = "deaf"
    """Nothing gets to it; what it says does."""
    MUTE = "mute"
    """It hears everything, and nothing that it says gets out."""
    SLOW = "slow"
    """Everything to and from it is late."""
    CLOCK = "clock"
    """Its wall clock is moved, and moved back."""


LINK_KINDS = (Kind.CUT, Kind.SILENCE, Kind.DEAF, Kind.MUTE, Kind.SLOW)
CLOCK_OFFSETS_S = (0.1, -0.1, 600.0, -600.0, 3600.0, -3600.0)
DELAYS_S = (0.02, 0.1, 0.4)
LASTS_S = (1.0, 5.0)
CLIENT, ETCD, COORDINATOR = "client", "etcd", "coordinator"


@dataclass(frozen=True, slots=True)
class Victim:
    """One process: its role and which of that role."""

    role: str
    number: int

    @property
    def name(self) -> str:
        """As the launcher calls it."""
        return f"{self.role}-{self.number}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what, to whom, `at_s` after the beginning, for so long.

    `amount` is the offset of a clock or the delay of a link, in seconds.
    """

    kind: Kind
    victims: tuple[Victim, ...]
    at_s: float
    lasts_s: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        names = " ".join(victim.name for victim in self.victims)
        amount = f" {self.amount:+g} s" if self.amount else ""
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.kind}{amount} {names}{lasts}"


Cast = dict[str, int]
"""How many processes there are of each role."""


class _Deck:
    """Deals everything once before anything twice."""

    def __init__(self, rng: random.Random, cards: Sequence[tuple[Kind, str]]) -> None:
        self._rng, self._cards = rng, list(cards)
        self._left: list[tuple[Kind, str]] = []

    def deal(self) -> tuple[Kind, str]:
        """The next card."""
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()


def kinds_for(role: str, *, clocks: bool) -> tuple[Kind, ...]:
    """What, besides kills, may be done to a role."""
    if role == CLIENT:
        return (Kind.STOP, Kind.CUT, Kind.SLOW)
    if role == ETCD or not clocks:
        # etcd is a Go program: it asks the kernel for the time, past any library.
        return (Kind.STOP, *LINK_KINDS)
    return (Kind.STOP, *LINK_KINDS, Kind.CLOCK)


def schedule(seed: int, duration_s: float, cast: Cast, *, clocks: bool) -> list[Fault]:
    """The faults of a run, by their beginnings."""
    rng = random.Random(seed)
    kills = _Deck(rng, [(Kind.KILL, role) for role in cast])
    others = _Deck(rng, [(kind, role) for role in cast for kind in kinds_for(role, clocks=clocks)])
    scale = min(1.0, duration_s / (FAULTS_MIN * GAP_MAX_S))
    busy_until_s: dict[Victim, float] = {}
    faults: list[Fault] = []
    at_s, end_s = FIRST_S * scale, duration_s - QUIET_END_S
    while at_s < end_s:
        # The first ones kill, so that even a short run has killed every role.
        kill = len(faults) < len(cast) or rng.random() < KILL_SHARE
        fault = _fault(rng, *(kills if kill else others).deal(), cast, at_s, end_s)
        # One fault at a time on each process; but whatever is done to it, it may be killed.
        free = tuple(each for each in fault.victims if busy_until_s.get(each, 0.0) <= at_s)
        if fault.kind is not Kind.KILL and free:
            fault = replace(fault, victims=free)
            busy_until_s.update((each, at_s + fault.lasts_s) for each in free)
        elif fault.kind is not Kind.KILL:
            fault = _fault(rng, *kills.deal(), cast, at_s, end_s)
        faults.append(fault)
        at_s += rng.uniform(GAP_MIN_S, GAP_MAX_S) * scale
    return faults


def _fault(
    rng: random.Random, kind: Kind, role: str, cast: Cast, at_s: float, end_s: float
) -> Fault:
    victims = [Victim(role, rng.randrange(cast[role]))]
    if rng.random() < SEVERAL_SHARE:
        everyone = [
            Victim(other, number)
            for other, count in cast.items()
            for number in range(count)
            if kind is Kind.KILL or kind in kinds_for(other, clocks=True)
        ]
        more = rng.sample(everyone, rng.randint(1, len(everyone)))
        victims += [each for each in more if each != victims[0]]
    lasts_s = 0.0 if kind is Kind.KILL else min(rng.uniform(*LASTS_S), end_s - at_s)
    amount = 0.0
    if kind is Kind.CLOCK:
        amount = rng.choice(CLOCK_OFFSETS_S)
    elif kind is Kind.SLOW:
        amount = rng.choice(DELAYS_S)
    return Fault(kind, tuple(victims), at_s, lasts_s, amount)


@dataclass(frozen=True, slots=True)
class Round:
    """Kills, each so many seconds after the round has begun."""

    kills: tuple[tuple[float, Victim], ...]


def campaign(seed: int, kills: int, cast: Cast) -> Iterator[Round]:
    """Rounds of kills until there were so many, every role about as often."""
    rng = random.Random(seed)
    done: Counter[str] = Counter()
    while (left := kills - done.total()) > 0:
        victims: dict[Victim, float] = {}
        for _ in range(min(left, rng.randint(*ROUND_VICTIMS))):
            least = min(done[role] for role in cast)
            role = rng.choice([role for role in cast if done[role] <= least + 1])
            free = [v for n in range(cast[role]) if (v := Victim(role, n)) not in victims]
            if free:
                victims[rng.choice(free)] = rng.uniform(0, ROUND_STAGGER_S)
                done[role] += 1
        in_order = sorted(victims, key=lambda victim: victims[victim])
        yield Round(tuple((victims[victim], victim) for victim in in_order))
