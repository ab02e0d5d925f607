"""What balancing costs a call, and what it saves: the channel against plain ones.

    python -m bench.balancer [--slices 32] [--only KEY ...] [--json]

Method. One machine, loopback. The servers are processes of their own that echo 100 bytes;
the client is this process. What is compared takes turns in slices, A B B A, each side
`--slices` times; a block of four gives one ratio and the median of the ratios counts
(`bench.interleaved`). The figures they were made of stand under `details`.

**Ratios of calls per second** (3 servers, 16 calls at a time, deadlines on both sides;
above 1 is faster than the other). `aio_vs_plain`: through `balancer.channel`, over three
plain grpc.aio channels that the caller takes in turn. `aio_vs_grpc_round_robin`: over
gRPC's own round_robin on a static list. `sync_vs_plain`: the same as the first with
`balancer.sync_channel` and 16 threads. `aio_all_features_vs_plain`: with health checks,
outlier ejection, circuit breakers, slow start and retries on. `aa_control` is plain
channels against themselves by the same method: what the method itself is off by.

**CPU.** `added_us_per_call`: process CPU time of a call through a channel over three fake
connections (READY, every call ended before it is awaited), less that of the same call on
such a connection itself; medians of interleaved slices. `added_us_all_features`: the same
with everything on. This is the figure without the noise of a network. `added_us_per_sync_call`:
the same as the first for `balancer.sync_channel`, CPU time of the one thread that calls.

**Picks.** `pick_us`: CPU time of one pick by policy, over 100 endpoints of weights 1 to 3,
1,000 keys in turn; hashing is included where there is some. `ring_vs_uhashring`: how much
longer uhashring's `get_node` takes than our hash and ring, for the same keys over the same
100 endpoints at as many points each (160), which makes the same spread or a better one:
both maxima over the mean, of 100,000 keys, are in `details`, and there is the ratio to a
whole pick, which also reads the key from the call and bounds the load. `ring_cold_1000_ms`:
CPU time of the first picker over 1,000 endpoints of 100 virtual nodes each;
`ring_change_1000_ms`: of the picker for one endpoint more or less.

**Outcomes.** `p2c_p99_vs_round_robin`: four servers, one of which takes 200 ms instead of
20; 8 calls at a time; the p99 under p2c_ewma over that under round_robin.
`attempts_per_call_all_failing`: four servers that refuse every call with UNAVAILABLE and
say that they did nothing, which may be retried; calls they saw for each that was made.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc

from balancer import ChannelConfig
from balancer.breaker import BreakerConfig
from balancer.health import HealthConfig
from balancer.outlier import OutlierConfig
from balancer.slow_start import SlowStartConfig
from bench import echo, outcomes, overhead, picks, throughput

FAST_S: Final = 0.02
SLOW_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured. Smaller ones are for trying the measurement itself."""

    slices: int = 32
    slice_s: float = 0.25
    p99_slice_s: float = 1.0
    cpu_calls: int = 2_000
    repeats: int = 31
    ring_endpoints: int = picks.RING_ENDPOINTS
    ring_repeats: int = 5
    spread_keys: int = picks.SPREAD_KEYS
    failing_calls: int = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What measurements share: servers, of which the last is slow when told to wait."""

    sizes: Sizes
    servers: echo.Fleet

    @property
    def three(self) -> list[str]:
        """Those that are alike."""
        return self.servers.addresses[:3]


Figure = tuple[Any, Any]
"""A value, and what it was made of."""


async def _aio_ratio(a: throughput.Side, b: throughput.Side, run: Run) -> Figure:
    sizes = run.sizes
    measured = await throughput.aio_ratio(run.three, a, b, sizes.slices, sizes.slice_s)
    return measured["ratio"], measured


async def _all_features_vs_plain(run: Run) -> Figure:
    ours = partial(throughput.balanced, config=all_features())
    return await _aio_ratio(throughput.plain, ours, run)


async def _sync_vs_plain(run: Run) -> Figure:
    measured = await throughput.sync_ratio(run.three, run.sizes.slices, run.sizes.slice_s)
    return measured["ratio"], measured


async def _added(make: Callable[[], ChannelConfig], run: Run) -> Figure:
    measured = await overhead.added_us(make(), run.sizes.slices, run.sizes.cpu_calls)
    return measured["added_us"], measured


async def _added_sync(run: Run) -> Figure:
    measured = overhead.added_us_sync(ChannelConfig(), run.sizes.slices, run.sizes.cpu_calls)
    return measured["added_us"], measured


async def _pick_us(run: Run) -> Figure:
    return picks.pick_us(run.sizes.repeats), None


async def _ring_vs_uhashring(run: Run) -> Figure:
    measured = picks.ring_vs_uhashring(run.sizes.repeats, run.sizes.spread_keys)
    return measured["ratio"], measured


async def _ring_change(run: Run) -> Figure:
    return picks.ring_change_ms(run.sizes.ring_repeats, run.sizes.ring_endpoints), None


async def _ring_cold(run: Run) -> Figure:
    return picks.ring_cold_ms(run.sizes.ring_repeats, run.sizes.ring_endpoints), None


async def _p2c_p99(run: Run) -> Figure:
    measured = await outcomes.p99_of_slow_backend(
        run.servers.addresses, run.sizes.slices, run.sizes.p99_slice_s
    )
    return measured["ratio"], measured


async def _attempts(run: Run) -> Figure:
    return await outcomes.attempts_per_call(run.servers, run.sizes.failing_calls), None


def all_features() -> ChannelConfig:
    """Everything on that watches endpoints; retries are on by default."""
    return ChannelConfig(
        health=HealthConfig(),
        outlier=OutlierConfig(),
        breaker=BreakerConfig(),
        slow_start=SlowStartConfig(),
    )


Measurement = Callable[[Run], Awaitable[Figure]]

MEASUREMENTS: Final[dict[str, Measurement]] = {
    "aio_vs_plain": partial(_aio_ratio, throughput.plain, throughput.balanced),
    "aa_control": partial(_aio_ratio, throughput.plain, throughput.plain),
    "aio_vs_grpc_round_robin": partial(_aio_ratio, throughput.round_robin, throughput.balanced),
    "sync_vs_plain": _sync_vs_plain,
    "aio_all_features_vs_plain": _all_features_vs_plain,
    "added_us_per_call": partial(_added, ChannelConfig),
    "added_us_all_features": partial(_added, all_features),
    "added_us_per_sync_call": _added_sync,
    "pick_us": _pick_us,
    "ring_vs_uhashring": _ring_vs_uhashring,
    "ring_change_1000_ms": _ring_change,
    "ring_cold_1000_ms": _ring_cold,
    "p2c_p99_vs_round_robin": _p2c_p99,
    "attempts_per_call_all_failing": _attempts,
}

TARGETS: Final = {
    "aio_vs_plain": ">= 0.95",
    "aa_control": "0.99 to 1.07",
    "aio_vs_grpc_round_robin": ">= 0.95",
    "sync_vs_plain": ">= 0.95",
    "aio_all_features_vs_plain": ">= 0.90",
    "added_us_per_call": "<= 15",
    "added_us_all_features": "<= 25",
    "added_us_per_sync_call": "<= 15",
    "pick_us": "round_robin, random < 0.3; ring_hash < 1",
    "ring_vs_uhashring": ">= 5",
    "ring_change_1000_ms": "< 20",
    "ring_cold_1000_ms": "< 250",
    "p2c_p99_vs_round_robin": "<= 0.5",
    "attempts_per_call_all_failing": "<= 1.2",
}


async def measure(sizes: Sizes, only: Collection[str] = ()) -> dict[str, Any]:
    """What `python -m bench.balancer` prints."""
    result: dict[str, Any] = {}
    details: dict[str, Any] = {}
    async with echo.fleet(*[FAST_S] * 3, SLOW_S) as servers:
        run = Run(sizes=sizes, servers=servers)
        for key in only or MEASUREMENTS:
            result[key], details[key] = await MEASUREMENTS[key](run)
    return result | {
        "details": {key: each for key, each in details.items() if each is not None},
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.balancer")
    parser.add_argument("--slices", type=int, default=Sizes().slices)
    parser.add_argument("--only", nargs="+", choices=tuple(MEASUREMENTS), default=())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = asyncio.run(measure(Sizes(slices=arguments.slices), arguments.only))
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for key, target in TARGETS.items():
        if key in result:
            sys.stdout.write(f"{key:30} {result[key]!s:12}  target {target}\n")


if __name__ == "__main__":
    main()
