"""A participant that prepares transactions, in a process of its own that may kill itself.

`python -m tests.txn.rpc.prepared_process DSN SCHEMA PORT COORDINATOR [CRASH_POINT]` says that
it is serving, until it is killed or comes to the crash point.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from txn import BranchKey, InquiryConfig, Refused, Vote
from txn.crash_point import no_crash
from txn.rpc.prepared_serving import serve_prepared_participant
from txn.store.postgres import PostgresTx

LOCAL_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 200))


class Accounts:
    """Takes 1 from the account that is named."""

    operation = StringValue
    schema = (
        "CREATE TABLE account (name TEXT PRIMARY KEY, amount BIGINT NOT NULL)",
        "INSERT INTO account VALUES ('ann', 2), ('bob', 0)",
    )

    def run(self, tx: PostgresTx, key: BranchKey, account: StringValue) -> Vote:
        """Refuses what is empty."""
        take = "UPDATE account SET amount = amount - 1 WHERE name = ? AND amount > 0"
        if not tx.execute(take, (account.value,)).rowcount:
            raise Refused("EMPTY")
        return Vote.COMMIT


async def main(dsn: str, schema: str, port: str, coordinator: str, crash_at: str = "") -> None:
    """Serves."""

    def crash(name: str) -> None:
        if name == crash_at:
            os.kill(os.getpid(), signal.SIGKILL)

    server = grpc.aio.server()
    server.add_insecure_port(f"127.0.0.1:{port}")
    async with (
        grpc.aio.insecure_channel(coordinator, options=LOCAL_OPTIONS) as channel,
        serve_prepared_participant(
            server,
            schema,
            Accounts(),
            dsn=dsn,
            coordinators={"booking": channel},
            inquiry=InquiryConfig(interval_s=0.1, jitter_s=0.0),
            crash_point=crash if crash_at else no_crash,
        ),
    ):
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
