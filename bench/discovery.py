"""What discovery costs: how fast it tells, what ten thousand endpoints and no etcd take.

    python -m bench.discovery [--outage] [--puts 500] [--json]

Method. Everything runs on one machine over loopback, against one real etcd (see
`tests.support.etcd`) that does its fsyncs; every role is a process of its own. The keys
named below are the result; beside them stand the figures they were made of.

**Propagation.** A writer puts registrations on a plain channel, one at a time and
further apart than the resolver bundles reports (`report_every_s`). Two sibling processes
watch: one with nothing but a watch on a plain grpc.aio channel, the other with an
EtcdResolver that feeds a balanced channel to live servers. They are siblings because on
one event loop whichever event came second would wait for the Python of the first, and
the bare one would be slowed down by what it is compared with. Each registration gives a
pair: from its put until the bare event was read, and until the policy had built a picker
over a READY connection of which the endpoint is this very registration. That is what "in
the picker" means. `propagation_p50_vs_bare` and `propagation_p99_vs_bare` are percentiles
of the ratios of the pairs, for registrations of endpoints to which there is a connection
(a restart, a new weight), since a bare watch connects to nobody; `of_p50s` and `of_p99s`
are ratios of the percentiles. For endpoints that are new, TCP and HTTP/2 have to connect
before any picker may have them: this is the second series, `connecting`, in which the
bare watcher opens a plain channel to the new address, and `picker_vs_bare_connected` is
the like for like. `listener` is the time at which the resolver's listener was told.

**Scale.** 10,000 endpoints with full metadata (3.4 MiB) on as many loopback addresses
(Linux has them all; elsewhere the series with a channel does not connect).
`list_10k_s` is the longest of ten first lists, each by a new client, from `subscribe`
until a listener has all of them. `change_10k_cpu_ms` is the process CPU time of one
change of one endpoint, all threads, mean over `--changes`, less what the process uses
when nothing changes; the greater one of a resolver with a listener, and of a resolver
with a balanced channel of the default `max_subchannels`.

**No etcd.** A process with a registrar and two resolvers, each with its own client, for
20 s with etcd there, stopped (SIGSTOP: connections stay open) and killed (-9).
`idle_outage_core_share` is the greater of the latter two.

**--outage** (three minutes more). Three services and a caller (four loops of unary calls,
100/s each) while etcd is killed and stays away for 60 s, and comes back with its
data. `outage_failed_calls` counts every call that did not end with OK, until the leases
of before have surely ended; `outage_registered_s` is the time from etcd's first healthy
answer until each key stands under a new lease. Then the same once more (`emptied`) with
an etcd that comes back with nothing. `kill9_gone_s`: services are killed with -9 at
different moments between two renewals of a TTL of `kill9_ttl_s`; the longest time until
one was gone from a client's list.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any, Final

from bench import outage, propagation, scale
from discovery.session import DEFAULT_TTL_S
from tests.support.etcd import EtcdProcess

TARGETS: Final = {
    "propagation_p50_vs_bare": 1.3,
    "propagation_p99_vs_bare": 2.0,
    "list_10k_s": 1.0,
    "change_10k_cpu_ms": 2.0,
    "idle_outage_core_share": 0.01,
    "outage_failed_calls": 0,
    "outage_registered_s": 10.0,
    "outage_emptied_failed_calls": 0,
    "outage_emptied_registered_s": 10.0,
    "kill9_gone_s": DEFAULT_TTL_S + 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured. Smaller ones are for trying the measurement itself."""

    puts: int = 500
    endpoints: int = 10_000
    changes: int = 200
    idle_s: float = 20.0
    outage_s: float = 60.0
    ttl_s: float = DEFAULT_TTL_S
    kills: int = outage.KILLS


async def measure(sizes: Sizes) -> dict[str, Any]:
    """What `python -m bench.discovery` prints."""
    with EtcdProcess() as etcd:
        told = await propagation.measure(etcd.endpoint, sizes.puts)
        scaled = await scale.measure(etcd.endpoint, sizes.endpoints, sizes.changes, sizes.idle_s)
    idle = await outage.measure_idle(sizes.idle_s)
    series = (scaled["listener"], scaled["channel"])
    ratio = told["connected"]["picker_vs_bare"]
    return {
        "propagation_p50_vs_bare": ratio["p50"],
        "propagation_p99_vs_bare": ratio["p99"],
        "list_10k_s": max(max(each["list_s"]) for each in series),
        "change_10k_cpu_ms": max(each["change_cpu_ms"] for each in series),
        "idle_outage_core_share": max(idle["silent_core_share"], idle["down_core_share"]),
        "propagation": told,
        "scale": scaled,
        "idle": idle,
    }


async def measure_outage(sizes: Sizes) -> dict[str, Any]:
    """What `--outage` adds."""
    away = await outage.measure_outage(sizes.outage_s, sizes.ttl_s)
    killed = await outage.measure_kills(sizes.ttl_s, sizes.kills)
    return {
        "outage_failed_calls": away["kept"]["failed_calls"],
        "outage_registered_s": away["kept"]["registered_again_s"],
        "outage_emptied_failed_calls": away["emptied"]["failed_calls"],
        "outage_emptied_registered_s": away["emptied"]["registered_again_s"],
        "kill9_gone_s": killed["gone_s_max"],
        "kill9_ttl_s": killed["ttl_s"],
        "outage": away,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.discovery")
    parser.add_argument("--puts", type=int, default=Sizes().puts)
    parser.add_argument("--changes", type=int, default=Sizes().changes)
    parser.add_argument("--outage", action="store_true", help="three minutes more")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = Sizes(puts=arguments.puts, changes=arguments.changes)
    result = asyncio.run(measure(sizes))
    if arguments.outage:
        result |= asyncio.run(measure_outage(sizes))
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for name, target in TARGETS.items():
        if name in result:
            sys.stdout.write(f"{name:26} {result[name]:9.4g}   target {target:g}\n")


if __name__ == "__main__":
    main()
