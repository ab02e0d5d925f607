"""Backups of all books of a mesh: taken, verified, restored, and what is open in them."""
