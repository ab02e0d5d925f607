"""Spins the mesh up on one machine: `make up`, `make ps`, `make logs`, `make down`, `make demo`.

Nothing is imported here: `bootstrap.py` runs before anything is installed.
"""
