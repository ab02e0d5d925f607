"""Orders: trades and how far they have come."""
