"""Leaf modules that every package may use: files, checkpoints, metrics, logging, distribution."""
