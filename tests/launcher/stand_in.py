"""A service that does nothing but answer health: what the launcher's tests start.

It keeps the contract of a service process: JSON lines on stderr, SERVING once ready,
exit 0 on SIGTERM, non-zero when it cannot start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


async def serve(address: str) -> None:
    """Answers at `address` until SIGTERM."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(1)


def main() -> None:
    """Reads the command line of a service process and serves."""
    parser = argparse.ArgumentParser()
    for name in ("service", "replica", "address", "etcd", "home"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    say = {"event": "starting", "process": f"{options.service}-{options.replica}"}
    sys.stderr.write(json.dumps({**say, "pid": os.getpid()}) + "\n")
    sys.stderr.flush()
    if options.service == "broken":
        raise SystemExit("this one never starts")
    asyncio.run(serve(options.address))


if __name__ == "__main__":
    main()
