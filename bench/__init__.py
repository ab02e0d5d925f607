"""Measurements, each with its method. Timings and counts belong here, not in tests."""
