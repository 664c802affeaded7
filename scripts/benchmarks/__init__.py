"""Subjects of `scripts/benchmark.py`, one in each module."""
