"""Training and evaluation of all tasks."""
