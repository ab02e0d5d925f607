"""What the running payment system carries, against what it is compared with.

The method stands in `bench.txn`.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import stocking, straightforward
from bench.interleaved import Slice, b_over_a
from bench.load import Client, Floor, Load
from bench.payments import Series

UNARY_IN_FLIGHT: Final = 64
BRANCHED_PAYMENTS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured. Smaller ones are for trying the measurement itself.

    `stream`, `unary`, `echo`, `baseline` and `alone` are transactions, or calls, of one slice.
    """

    in_flight: int = 512
    stream: int = 5_000
    unary: int = 1_000
    echo: int = 2_000
    baseline: int = 800
    # Among which the baseline's best concurrency is looked for.
    concurrencies: tuple[int, ...] = (32, 128, 256)
    alone: int = 100
    # So few that no checkpoint comes between.
    logged: int = 1_600
    slices: int = 6
    baseline_slices: int = 4
    accounts: int = 10_000
    doubtful: int = 10_000
    finished: int = 1_000_000
    starts: int = 3
    full_accounts: int = 1_000_000
    full_past: int = 5_000_000

    @property
    def uniform(self) -> Series:
        """Payments to many."""
        return Series("uniform", self.accounts)

    @property
    def single(self) -> Series:
        """Payments to many, of which no trade knows."""
        return Series("single", self.accounts, single=True)

    @property
    def hot(self) -> Series:
        """Payments to one."""
        return Series("hot", self.accounts, hot=True)


@dataclass(slots=True, kw_only=True)
class Side:
    """A system that takes payments: where it listens, what it can still be paid, and was paid."""

    client: Client
    home: Path
    address: str = ""
    stocked: Mapping[Series, int]
    used: dict[Series, int] = field(default_factory=dict)
    paid: int = 0

    async def stream(self, sizes: Sizes, series: Series) -> dict[str, float]:
        """One slice of the stream."""
        return await self.send("stream", series, sizes.stream, sizes.in_flight)

    async def send(
        self, how: str, series: Series, count: int, in_flight: int, payments: int = 1
    ) -> dict[str, float]:
        """See `Load`; each payment is made once."""
        first = self.used.get(series, 0)
        self.used[series] = first + count * payments
        assert self.used[series] <= self.stocked[series], f"{series.name} is used up"
        figures = await self.client.send(
            Load(
                how=how,
                address=self.address,
                count=count,
                in_flight=in_flight,
                first=first,
                series=series,
                payments=payments,
            )
        )
        self.paid += 0 if series.single else count * payments
        return figures

    def check(self) -> None:
        """Once its processes have ended: raises AssertionError unless the books agree."""
        stocking.check(self.home, self.paid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What measurements share."""

    sizes: Sizes
    scratch: Path
    client: Client
    echo: str


Figure = tuple[Any, Any]
"""A value, and what it was made of."""

Measure = Callable[[Run, Side], Awaitable[Figure]]


def slices_of(slices: int) -> int:
    """How often `b_over_a` calls each of its sides."""
    return 1 + slices + slices % 2


async def rate(send: Callable[[], Awaitable[dict[str, float]]]) -> Slice:
    """What is sent, as a slice of which one wants more a second."""
    return Slice((await send())["rate"], 1.0)


async def latency(send: Callable[[], Awaitable[dict[str, float]]], key: str = "p50_ms") -> Slice:
    """The same, as one of which one wants less: the other side's share comes out."""
    return Slice(1.0, (await send())[key])


async def stream_tps(run: Run, side: Side) -> Figure:
    """Transactions per second."""
    sizes = run.sizes
    series = [await side.stream(sizes, sizes.uniform) for _ in range(sizes.slices)]
    return round(statistics.median(each["rate"] for each in series)), series


async def stream_vs_straightforward(run: Run, side: Side) -> Figure:
    """Transactions per second over those of the baseline at its best concurrency."""
    sizes = run.sizes
    home = run.scratch / "straightforward"
    count = sizes.baseline * (len(sizes.concurrencies) + slices_of(sizes.baseline_slices))
    theirs = Side(client=run.client, home=home, stocked={sizes.uniform: count})
    stocking.stock(home, theirs.stocked)
    async with straightforward.running(home) as theirs.address:
        baseline = partial(theirs.send, "unary", sizes.uniform, sizes.baseline)
        tried = {each: (await baseline(each))["rate"] for each in sizes.concurrencies}
        best = max(tried, key=lambda each: tried[each])
        measured = await b_over_a(
            lambda: rate(partial(baseline, best)),
            lambda: rate(partial(side.stream, sizes, sizes.uniform)),
            sizes.baseline_slices,
        )
    theirs.check()
    return measured["ratio"], measured | {"by_concurrency": tried, "concurrency": best}


async def unary_vs_echo(run: Run, side: Side) -> Figure:
    """Unary transactions per second over bare unary calls."""
    sizes = run.sizes
    echo = Load(
        how="echo",
        address=run.echo,
        count=sizes.echo,
        in_flight=UNARY_IN_FLIGHT,
        series=sizes.uniform,
    )
    measured = await b_over_a(
        lambda: rate(partial(run.client.send, echo)),
        lambda: rate(partial(side.send, "unary", sizes.uniform, sizes.unary, UNARY_IN_FLIGHT)),
        sizes.slices,
    )
    return measured["ratio"], measured


async def hot_vs_uniform(run: Run, side: Side) -> Figure:
    """Transactions per second to one payee over those to many."""
    sizes = run.sizes
    measured = await b_over_a(
        lambda: rate(partial(side.stream, sizes, sizes.uniform)),
        lambda: rate(partial(side.stream, sizes, sizes.hot)),
        sizes.slices,
    )
    return measured["ratio"], measured


async def alone_vs_floor(run: Run, side: Side) -> Figure:
    """Latency of a lone transaction over that of three forces and three round trips."""
    sizes = run.sizes
    floor = Floor(
        address=run.echo,
        path=str(run.scratch / "floor.db"),
        count=sizes.alone,
        series=sizes.uniform,
    )
    floors: list[dict[str, float]] = []

    async def bare() -> dict[str, float]:
        floors.append(await run.client.floor(floor))
        return floors[-1]

    measured = await b_over_a(
        lambda: latency(partial(side.send, "unary", sizes.uniform, sizes.alone, 1)),
        lambda: latency(bare, "floor_ms"),
        sizes.slices,
    )
    return measured["ratio"], {
        "ratio": measured,
        "alone_ms": round(1 / measured["a"], 3),
        "floor_ms": round(1 / measured["b"], 3),
        "force_ms": round(statistics.median(each["force_ms"] for each in floors), 3),
        "round_trip_ms": round(statistics.median(each["round_trip_ms"] for each in floors), 3),
    }


async def eight_branches_vs_two(run: Run, side: Side) -> Figure:
    """Latency of a lone transaction of eight branches over that of one of two."""
    sizes = run.sizes
    send = partial(side.send, "stream", sizes.uniform, sizes.alone, 1)
    measured = await b_over_a(
        lambda: latency(partial(send, BRANCHED_PAYMENTS)),
        lambda: latency(send),
        sizes.slices,
    )
    return measured["ratio"], {
        "ratio": measured,
        "eight_ms": round(1 / measured["a"], 3),
        "two_ms": round(1 / measured["b"], 3),
    }
