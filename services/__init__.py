"""The payment system built on `discovery`, `balancer` and `txn`; it runs from the repository."""
