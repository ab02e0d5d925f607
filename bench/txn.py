"""What a transaction costs, and what the engine carries, over real processes and real disks.

    python -m bench.txn [--long] [--only KEY ...] [--json]

Method. One machine, loopback. Coordinator, order and ledger are the shipped services, a
process each, one replica, on uvloop, over SQLite with synchronous=FULL, beside a real
etcd. A transaction is a payment: PayTradeOperation at order and TransferOperation at
ledger, with an idempotency key and the barrier, and it is waited for until it is applied.
Its trade and its funded payer are inserted in bulk before the services start; 10,000
payers pay 10,000 payees, by a fixed hash of the payment's number (`uniform`), or one payee
(`hot`). The load client is a process of its own, on uvloop, over one plain grpc.aio
channel; its requests are serialized before the clock starts, so that it takes as little
of the two cores as it can (`bench.load`). Every answer must be OUTCOME_COMMITTED, and in
the end, when the services have stopped, the trial balance must balance, nothing may be
held or in doubt, and the trades that are paid must be as many as were answered. All
stores are in a temporary directory on a file system that is on a disk: one in memory, on
which a force costs nothing, is refused. What is compared takes turns in slices, A B B A,
and the median of the ratios of the blocks counts (`bench.interleaved`); what the figures
were made of stands under `details`. `busy_before` is the share of the cores that was in use
before each measurement, when nothing here was at work: figures of a machine that others
use say little, latencies least of all, since whoever has slept waits for a core. `took_s` is
what each measurement took as a whole.

**Streamed** (ExecuteStream, 512 in flight; what became free in a turn goes in one message,
up to 64 requests). A slice is 5,000 transactions; its rate is taken from the 512th answer
until the last request has left. `stream_tps_sqlite`: transactions per second, the median
of 6 slices. `stream_tps_postgres`: the same with all three stores in one PostgreSQL on the
same machine, as `make up STORE=postgres` starts it, its fsync on, filled before and checked
after. `stream_vs_straightforward`: over those of the baseline
(`bench.straightforward`): a coordinator in the obvious style, five unary calls a
transaction and every step forced by itself, by the same client with unary calls at the
best of 32, 128 and 256 in flight. `hot_vs_uniform`: all payments to one payee over
payments to many.

**Unary.** `unary_vs_echo`: Execute by 64 callers, over a bare unary echo by the same
callers, on uvloop, with requests and answers of the same sizes.

**Alone.** `alone_vs_floor`: the median latency of one unary Execute after the other, over
that of three bare round trips to the echo and three SQLite commits of one row with
synchronous=FULL on the same disk, into a log that has its blocks already, one after the
other in the client. `eight_branches_vs_two`: the median latency of a transaction of four
trades and four transfers over that of one of one each, one after the other on a stream.

**Counted from outside.** `forces_per_txn_alone`, `forces_per_txn_512`: calls of fdatasync and
fsync on `-wal` files, by strace on all three services (`bench.forces`), for a transaction, one
after the other and streamed; forces of the main files by checkpoints are shown beside them.
strace slows down every thread that it is attached to, and slow services make larger groups; so
the streamed ones are counted by a strace on those threads only that were seen to force
something before, and the rate meanwhile is `rate_while_traced`. Beside it stands `untraced`:
the commits of 1,600 more transactions that nobody traces, each of which is one force, counted
in the logs themselves (`bench.wal`). `messages_alone`: gRPC messages between the coordinator
and the participants in both directions (a unary call counts two), for one transaction after
the other. They are counted by a proxy in the place of each participant, found by a registry of
the coordinator's own; `entries` are what the messages of the stream contain.

**A single branch.** A transfer at the ledger alone, by unary Execute, one after the other.
`one_phase_vs_two`: its median latency in one phase over that in two, which is what the same system
beside it takes that was started with TALLYSTICK_ONE_PHASE=0. `forces_one_phase` and
`messages_one_phase` are counted as above, after the first few, of which the very first takes two.

**Starts.** `indoubt_10k_s`: order, ledger and coordinator are launched over stores with
10,000 transactions in doubt; the time from launch, Python's own start included, until no
branch is in doubt in the files and the coordinator lists nothing unfinished. Once with
commits of which the log has no end, once with branches that are prepared and of which the
log has no row; the longer one counts. `start_1m_s`: from launch until the coordinator's
health says SERVING over a log of 1,000,000 finished transactions, the median of three; an
empty log, in turns with it, is in `details`.

**--long.** `full_vs_empty`: two systems at once, one of which has 1,000,000 accounts, all
of which take part, and 5,000,000 past transactions in all three stores (5 GB); the
rate of that over the rate of the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import counting, full, on_postgres, one_phase, paying, starting, stocking
from bench.balancer import machine
from bench.disk import scratch_directory
from bench.load import Client
from bench.paying import BRANCHED_PAYMENTS, Figure, Run, Side, Sizes, slices_of
from bench.payments import Series
from bench.peers import Peer
from bench.quiet import busy_share
from bench.rig import Rig

Needs = Callable[[Sizes], Mapping[Series, int]]


@dataclass(frozen=True, slots=True)
class OnRig:
    """A measurement of the running system, and the payments that it makes."""

    measure: Callable[[Run, Side, Rig], Awaitable[Figure]]
    needs: Needs


def _on_rig(measure: paying.Measure, needs: Needs) -> OnRig:
    return OnRig(lambda run, side, _rig: measure(run, side), needs)


def _slices(sizes: Sizes) -> int:
    return slices_of(sizes.slices)


ON_RIG: Final[dict[str, OnRig]] = {
    "stream_tps_sqlite": _on_rig(paying.stream_tps, lambda s: {s.uniform: s.slices * s.stream}),
    "stream_vs_straightforward": _on_rig(
        paying.stream_vs_straightforward,
        lambda s: {s.uniform: slices_of(s.baseline_slices) * s.stream},
    ),
    "hot_vs_uniform": _on_rig(
        paying.hot_vs_uniform, lambda s: dict.fromkeys((s.uniform, s.hot), _slices(s) * s.stream)
    ),
    "unary_vs_echo": _on_rig(paying.unary_vs_echo, lambda s: {s.uniform: _slices(s) * s.unary}),
    "alone_vs_floor": _on_rig(paying.alone_vs_floor, lambda s: {s.uniform: _slices(s) * s.alone}),
    "eight_branches_vs_two": _on_rig(
        paying.eight_branches_vs_two,
        lambda s: {s.uniform: _slices(s) * s.alone * (1 + BRANCHED_PAYMENTS)},
    ),
    "forces_per_txn_alone": OnRig(counting.forces_per_txn_alone, lambda s: {s.uniform: s.alone}),
    "forces_one_phase": OnRig(
        counting.forces_one_phase, lambda s: {s.single: counting.WARM_UP + s.alone}
    ),
    "forces_per_txn_512": OnRig(
        counting.forces_per_txn_512, lambda s: {s.uniform: counting.WARM_UP + s.stream + s.logged}
    ),
}

APART: Final[dict[str, Callable[[Run], Awaitable[Figure]]]] = {
    "stream_tps_postgres": on_postgres.stream_tps,
    "messages_alone": counting.messages_alone,
    "messages_one_phase": counting.messages_one_phase,
    "one_phase_vs_two": one_phase.one_phase_vs_two,
    "indoubt_10k_s": starting.indoubt,
    "start_1m_s": starting.start,
    "full_vs_empty": full.full_vs_empty,
}

LONG: Final = frozenset({"full_vs_empty"})

TARGETS: Final = {
    "stream_tps_sqlite": ">= 8000",
    "stream_tps_postgres": ">= 2000",
    "stream_vs_straightforward": ">= 15",
    "hot_vs_uniform": ">= 0.9",
    "unary_vs_echo": ">= 0.35",
    "alone_vs_floor": "<= 1.6",
    "eight_branches_vs_two": "<= 1.5",
    "forces_per_txn_alone": "<= 5",
    "forces_one_phase": "<= 2",
    "forces_per_txn_512": "<= 0.1",
    "messages_alone": "<= 8",
    "messages_one_phase": "<= 2",
    "one_phase_vs_two": "<= 0.75",
    "indoubt_10k_s": "<= 10",
    "start_1m_s": "<= 2",
    "full_vs_empty": ">= 0.9",
}


async def measure(sizes: Sizes, only: Collection[str] = ()) -> dict[str, Any]:
    """What `python -m bench.txn` prints; all that is not LONG unless told."""
    keys = only or [key for key in TARGETS if key not in LONG]
    figures: dict[str, Figure] = {}
    busy: dict[str, float | None] = {}
    took_s: dict[str, float] = {}

    async def take(key: str, measurement: Callable[[], Awaitable[Figure]]) -> None:
        busy[key] = await busy_share()
        began_s = time.monotonic()
        figures[key] = await measurement()
        took_s[key] = round(time.monotonic() - began_s, 1)

    with tempfile.TemporaryDirectory(dir=scratch_directory()) as scratch:
        async with Client() as client, Peer("bench.load", "echo") as echo:
            run = Run(
                sizes=sizes,
                scratch=Path(scratch),
                client=client,
                echo=(await echo.hear())["address"],
            )
            if chosen := [key for key in ON_RIG if key in keys]:
                async with _system(run, chosen) as (side, rig):
                    for key in chosen:
                        await take(key, partial(ON_RIG[key].measure, run, side, rig))
            for key, apart in APART.items():
                if key in keys:
                    await take(key, partial(apart, run))
    return {key: figures[key][0] for key in keys} | {
        "details": {key: figures[key][1] for key in keys},
        "machine": machine() | {"busy_before": busy, "took_s": took_s},
    }


@asynccontextmanager
async def _system(run: Run, keys: Collection[str]) -> AsyncIterator[tuple[Side, Rig]]:
    """The system, warm, with as much to pay as the measurements `keys` will; checks its books."""
    needs: Counter[Series] = Counter({run.sizes.uniform: run.sizes.stream})
    for key in keys:
        needs.update(ON_RIG[key].needs(run.sizes))
    side = Side(client=run.client, home=run.scratch / "system", stocked=needs)
    stocking.stock(side.home, needs)
    async with Rig(side.home) as rig:
        side.address = rig.address
        await side.stream(run.sizes, run.sizes.uniform)
        yield side, rig
    side.check()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.txn")
    parser.add_argument("--long", action="store_true", help="full_vs_empty too")
    parser.add_argument("--only", nargs="+", choices=tuple(TARGETS), default=())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keys = arguments.only or [key for key in TARGETS if arguments.long or key not in LONG]
    result = asyncio.run(measure(Sizes(), keys))
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for key in keys:
        sys.stdout.write(f"{key:26} {result[key]!s:12}  target {TARGETS[key]}\n")


if __name__ == "__main__":
    main()
