"""The payment system built on `discovery`, `balancer` and `txn`; it runs from the repository."""

import os

# gRPC's core writes into its process's log what a connection says when it ends, as it is: whoever
# connects could write lines there. It reads this when it is loaded, so before anything imports it.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

VERSION = "0.1.0"
