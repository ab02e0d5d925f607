"""The ledger: accounts, holds and a double-entry journal."""
