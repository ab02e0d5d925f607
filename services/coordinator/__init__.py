"""The process around the transaction engine in txn/coordinator.py."""
