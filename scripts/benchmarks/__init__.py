"""What `scripts/benchmark.py` can measure, one subject a module."""
