"""Counts the forced writes of a lone payment, by service.

    python -m bench.forces [--payments 100] [--json]

Method: a mesh of real processes (one of each service, real etcd, SQLite with
synchronous=FULL) in a temporary directory. Trades are created and a few payments made
first, so that the measured time holds nothing but payments. Then `strace -f -y -e
trace=fdatasync,fsync` is attached to every service, and the payments run one after the
other. Counted are the calls on `-wal` files, which are the forces of commits and of
checkpoints alike; forces of the main database files by checkpoints are shown beside them.

Needs strace, and the right to trace one's own processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.faults import traced
from tests.support.mesh import SERVICES, Mesh, Shop

WARM_UP_PAYMENTS = 5
_SYNC = re.compile(r"^(?:(?P<thread>\d+) +)?f(?:data)?sync\(\d+<(?P<path>[^>]+)>", re.MULTILINE)


class Strace:
    """strace on some processes, or on some threads only; `stop` returns what they forced.

    Each system call of whom it traces takes several times as long, whether it is counted
    or not. `threads`, when it has stopped, are those that have forced something.
    """

    def __init__(self, pids: list[int], out: Path, *, threads_only: bool = False) -> None:
        """With `threads_only`, `pids` are those of threads, and no other thread is slowed down."""
        self._out = out
        self.threads: frozenset[int] = frozenset()
        follow = () if threads_only else ("-f",)
        targets = [argument for pid in pids for argument in ("-p", str(pid))]
        self._process = subprocess.Popen(
            [
                *("strace", "-q", *follow, "-y", "-e", "trace=fdatasync,fsync"),
                *("-o", str(out), *targets),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not all(traced(pid, threads_only=threads_only) for pid in pids):
            if self._process.poll() is not None:
                raise SystemExit("strace could not attach: is tracing allowed here?")
            time.sleep(0.05)

    def stop(self) -> Counter[str]:
        """Detaches; forces by file name."""
        self._process.terminate()
        self._process.wait()
        forces = list(_SYNC.finditer(self._out.read_text()))
        self.threads = frozenset(int(match["thread"]) for match in forces if match["thread"])
        return Counter(Path(match["path"]).name for match in forces)


async def measure(payments: int) -> Counter[str]:
    """Forces by file name over `payments` lone payments."""
    with tempfile.TemporaryDirectory() as scratch:
        async with Mesh(Path(scratch)) as mesh:
            shop = await Shop(mesh).open(funds_minor=10**9)
            trades = [await shop.trade() for _ in range(payments + WARM_UP_PAYMENTS)]
            for trade in trades[:WARM_UP_PAYMENTS]:
                await shop.pay(trade)
            pids = [process.pid for process in mesh.processes.values()]
            strace = Strace(pids, Path(scratch) / "strace.out")
            for trade in trades[WARM_UP_PAYMENTS:]:
                await shop.pay(trade)
            return strace.stop()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.forces")
    parser.add_argument("--payments", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if shutil.which("strace") is None:
        raise SystemExit("strace is needed to count forces: install it")
    counts = asyncio.run(measure(arguments.payments))
    by_service = {service: counts[f"{service}.db-wal"] / arguments.payments for service in SERVICES}
    result = {
        "payments": arguments.payments,
        "forces_per_payment": sum(by_service.values()),
        "by_service": by_service,
        "checkpoint_forces": sum(n for name, n in counts.items() if name.endswith(".db")),
    }
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for service, forces in by_service.items():
        sys.stdout.write(f"{service:12} {forces:6.2f}\n")
    sys.stdout.write(f"{'a payment':12} {result['forces_per_payment']:6.2f}\n")


if __name__ == "__main__":
    main()
