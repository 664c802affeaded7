"""Leaf modules that every room may use: files, checkpoints, metrics, logging, distribution."""
