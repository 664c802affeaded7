"""Leaf modules that every package may import: files, checkpoints, metrics, logging, distribution."""
