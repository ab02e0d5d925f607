"""`python -m services.orphans --dsn DSN --coordinator HOST:PORT [--resolve] [--json]`.

Lists what is prepared in a database of PostgreSQL and what the decision log says of each, see
docs/adr/0009-prepared-transactions.md. The code is 0, 1 where something is left that the log has
decided, 2 where it could not be looked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence

import grpc

from txn.clock import SystemClock
from txn.errors import StoreError
from txn.orphans import Orphan, OrphanKind, OrphanScan
from txn.rpc.inquiring import GrpcInquiry

EXIT_LEFT = 1
EXIT_FAILED = 2
_PROVED = (OrphanKind.COMMITTED, OrphanKind.ABORTED)
# As every call of this project within a host.
_CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)


def main(arguments: Sequence[str] | None = None) -> int:
    """Looks once; whatever goes wrong is told in one line."""
    options = _parser().parse_args(arguments)
    if not options.dsn:
        sys.stderr.write("orphans: name a database with --dsn or in TALLYSTICK_POSTGRES\n")
        return EXIT_FAILED
    try:
        found = asyncio.run(_look(options))
    except StoreError as error:
        sys.stderr.write(f"orphans: {error}\n")
        return EXIT_FAILED
    if options.json:
        sys.stdout.write(json.dumps([_public(each) for each in found]) + "\n")
    else:
        sys.stdout.write("".join(f"{_line(each)}\n" for each in found) or "nothing is prepared\n")
    left = any(each.kind in _PROVED and not each.resolved for each in found)
    return EXIT_LEFT if left else 0


async def _look(options: argparse.Namespace) -> list[Orphan]:
    async with grpc.aio.insecure_channel(options.coordinator, options=_CHANNEL_OPTIONS) as channel:
        scan = OrphanScan(options.dsn, GrpcInquiry(channel), SystemClock())
        return await scan.look(resolve=options.resolve)


def _public(orphan: Orphan) -> dict[str, object]:
    name = orphan.name
    return {
        "gid": orphan.gid,
        "kind": orphan.kind.name,
        "age_s": round(orphan.age_s, 3),
        "resolved": orphan.resolved,
        "problem": orphan.problem,
        "schema": name and name.schema,
        "txn_id": name and name.key.txn_id,
        "branch_id": name and name.key.branch_id,
        "coordinator": name and name.coordinator,
    }


def _line(orphan: Orphan) -> str:
    done = "resolved" if orphan.resolved else orphan.problem or orphan.kind.value
    return f"{orphan.kind.name:<10} {orphan.age_s:>10.0f} s  {orphan.gid}  {done}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.orphans", description=__doc__)
    parser.add_argument(
        "--dsn",
        default=os.environ.get("TALLYSTICK_POSTGRES", ""),
        help="the database, as libpq names it; keep a password in a passfile, not here",
    )
    parser.add_argument("--coordinator", required=True, metavar="HOST:PORT", help="whom to ask")
    parser.add_argument("--resolve", action="store_true", help="do what the log has decided")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
